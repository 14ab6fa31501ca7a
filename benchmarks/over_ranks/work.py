"""What ranks do to be timed: messages beside raw ones, compressed beside whole rows, steps beside those of a stack."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from over_ranks.turns import Turn, by_turns

import fastsaddle as fs
from fastsaddle.comm.base import Exchange, LocalStep
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.comm.stacked import StackedGossip
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.ranks import Placement, Plan, ThreadTransport, TorchTransport
from fastsaddle.ranks.halo import Halo
from fastsaddle.ranks.header import Kind
from fastsaddle.ranks.mail import Mail
from fastsaddle.ranks.peers import Peers

Times = dict[str, list[Turn]]
# bytes sent, and due
Wire = dict[str, tuple[int, int]]
LR, BETA, GAMMA = 0.01, 0.9, 0.5
QUASI_GLOBAL = 2


def exchanges(dim: int, bits: Sequence[int], turns: int, calls: int) -> Times:
    """An agent's row, or its codes, to both neighbors on the ring of all ranks, beside raw messages of as many bytes.

    Ours have headers that are checked, and say who failed where something does; `raw ...` are `batch_isend_irecv`.
    """
    here = fs.place()
    plan = Plan(fs.topology.ring(here.all_agents), here.counts, here.rank)
    layout = FlatLayout.pack([[(dim,)]])
    peers = Peers(here, plan.sends, plan.receives)
    cpu = torch.device("cpu")
    sizes = {"row": (layout.stride, Kind.ROW)}
    for count in bits:
        nbytes = fs.compressors.StochasticQuantizer(count).message_bytes(layout)
        sizes[f"{count} bits"] = (nbytes, Kind.PAYLOAD)
    ways: dict[str, Callable[[], object]] = {}
    for name, (columns, kind) in sizes.items():
        halo = Halo(plan, columns, cpu, kind)
        ways[name] = told(halo, peers)
        ways[f"raw {name}"] = raw(plan.sends, columns, halo.rows.dtype)
    return by_turns(ways, turns, calls, dist.barrier)


def told(halo: Halo, peers: Peers) -> Callable[[], object]:
    return lambda: halo.exchange(peers)


def raw(peers: Iterable[int], columns: int, dtype: torch.dtype) -> Callable[[], object]:
    """One message to and from each peer, nothing else."""
    own = torch.ones(columns, dtype=dtype)
    into = {peer: torch.empty_like(own) for peer in peers}

    def exchange() -> None:
        ops = [
            dist.P2POp(op, tensor, peer)
            for peer, buffer in into.items()
            for op, tensor in ((dist.isend, own), (dist.irecv, buffer))
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()

    return exchange


def compressed(dim: int, bits: int, turns: int, calls: int) -> Times:
    """All that lets neighbors know an agent's model: `row` whole, `codes` encoded, sent and decoded."""
    here = fs.place()
    made = {
        name: optimizer(here, dim, compressor)
        for name, compressor in (
            ("row", None),
            ("codes", fs.compressors.StochasticQuantizer(bits)),
        )
    }
    ways = {name: publishing(one) for name, one in made.items()}

    def begin() -> None:
        # or what is left to send would be next to nothing
        for one in made.values():
            one.rows.x.normal_()
        dist.barrier()

    return by_turns(ways, turns, calls, begin)


def optimizer(here: Placement, dim: int, compressor: Any) -> fs.Optimizer:
    """DSGD on a ring, of agents with `dim` parameters each."""
    models = torch.nn.Parameter(torch.randn(here.agents, dim))
    options = {} if compressor is None else {"compressor": compressor, "consensus_step": GAMMA}
    return fs.DSGD([models], lr=LR, topology="ring", placement=here, **options)


def publishing(one: fs.Optimizer) -> Callable[[], object]:
    one.zero_grad()
    ((comm, columns),) = one.begin_rounds()
    models, exchange = one.rows.x[:, columns], comm.exchanges[0]
    return lambda: one.communicator.publish(models, exchange)


class Nothing(Peers):
    """Peers to whom nothing is sent: what is left of a step is what a rank does by itself."""

    def begin(self, mail: Mail) -> None:
        pass

    def finish(self) -> None:
        pass


def steps(dim: int, count: int, ranks: int, turns: int, calls: int) -> Times:
    """`gossip_step_` of `count` agents on one of several ranks, and of all agents of a ring in one stack."""
    here = Placement((count,) * ranks, ThreadTransport.group(ranks)[1])
    ring = fs.topology.ring(here.all_agents)
    spread, stack = RankGossip(ring, here), StackedGossip(ring)
    spread.peers = Nothing(here, spread.plan.sends, spread.plan.receives)
    layout = FlatLayout.pack([[(dim,)]])
    ways = {
        "ranks": stepping(spread, layout, count),
        "stack": stepping(stack, layout, here.all_agents),
    }
    return by_turns(ways, turns, calls, dist.barrier)


def stepping(communicator: Any, layout: FlatLayout, agents: int) -> Callable[[], object]:
    """One step with quasi-global momentum after the other, as QGM has them."""
    models, gradients, momentum = (torch.randn(agents, layout.stride) for _ in range(3))
    lr, beta, none = torch.tensor(LR), torch.tensor(BETA), torch.tensor(0.0)
    number = torch.zeros((), dtype=torch.int64)
    numbers = (lr, none, beta, beta, None, QUASI_GLOBAL, True, False, 0, number)
    step = LocalStep(None, gradients, momentum, *numbers, communicator.first_agent)
    exchange = Exchange(layout, {}, 0, number, torch.zeros(agents, 2, dtype=torch.float64))
    return lambda: communicator.gossip_step_(models, step, exchange)


class Counted(TorchTransport):
    """A transport that counts what it is given to send."""

    nbytes = 0

    def exchange(self, sends: Any, receives: Any) -> Any:
        self.nbytes += sum(buffer.numel() * buffer.itemsize for buffer in sends.values())
        return super().exchange(sends, receives)


def wire(dim: int, count: int, compressors: Mapping[str, Any], number: int) -> Wire:
    """By compressor, what this rank has sent in `number` steps of `count` agents a rank, and what was due for them.

    Due are payload + 128 bytes a message.
    """
    found: Wire = {}
    for name, compressor in compressors.items():
        transport = Counted()
        here = Placement((count,) * transport.size, transport)
        one = optimizer(here, dim, compressor)
        plan, before = Plan(one.topology, here.counts, here.rank), transport.nbytes
        layout = one.rows.layout.group(0)
        payload = 4 * layout.stride if compressor is None else compressor.message_bytes(layout)
        for _ in range(number):
            one.rows.g.normal_()
            one.step()
        sent = transport.nbytes - before
        if one.bytes_on_wire != sent:
            raise AssertionError(f"{name}: {one.bytes_on_wire} counted, {sent} sent")
        found[name] = sent, number * sum(map(len, plan.sends.values())) * (payload + 128)
    return found
