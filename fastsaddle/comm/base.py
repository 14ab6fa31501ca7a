"""The contract of a communicator: how rows travel between agents, and nothing about what they are for."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.comm.lists import Lists, Meeting
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.kernels.consensus import consensus
from fastsaddle.kernels.gossip_step import gossip_step
from fastsaddle.kernels.local_step import local_step
from fastsaddle.kernels.mix_update import mix_update
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.hyperparameters import Hyperparameter
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.ranks.fingerprint import Agreement
    from fastsaddle.ranks.placement import Placement


# rows of the next step that are under way, in an exchange's memory
AHEAD = "ahead"
NOT_STACKED = (
    "parameters must be stacked as [agents, ...], as those of fs.AgentStack(model, agents) are, "
    "got no common first dimension; where each process has one agent, an ordinary module, give process_group="
)


@dataclass(frozen=True)
class LocalStep:
    """What a gossip step does before and after the exchange: the arguments of the gossip_step op.

    Attributes:
        saved: `[agents, columns]` float32, the models to return to after a perturbation; None where there was none.
        g: `[agents, columns]` float32 gradients.
        momentum: `[agents, columns]` float32 or bfloat16, updated; None for kind 0.
        lr, weight_decay, beta, mu: float32, 0-d or `[agents]`.
        norm: `[agents]` float32, or None: agents whose norm is not finite take no local step.
        kind: 0 no momentum, 1 local, 2 quasi-global.
        seed, number: of the draws that round bfloat16 momentum; the number is int64, 0-d: rounds done before.
        first_agent: number of the first row's agent, for the same draws.
    """

    saved: torch.Tensor | None
    g: torch.Tensor
    momentum: torch.Tensor | None
    lr: torch.Tensor
    weight_decay: torch.Tensor
    beta: torch.Tensor
    mu: torch.Tensor
    norm: torch.Tensor | None
    kind: int
    nesterov: bool
    maximize: bool
    seed: int
    number: torch.Tensor
    first_agent: int = 0

    @property
    def random(self) -> tuple[int, torch.Tensor, int]:
        """Seed, step and first agent as ops take them."""
        return self.seed, self.number, self.first_agent


def local_models(x: torch.Tensor, step: LocalStep, out: torch.Tensor | None = None) -> torch.Tensor:
    """h, every agent's model after its local step, `[agents, columns]`, new or in `out`; local momentum is updated."""
    h = torch.empty_like(x) if out is None else out
    local_step(
        x,
        step.saved,
        step.g,
        step.momentum,
        h,
        step.lr,
        step.weight_decay,
        step.beta,
        step.norm,
        step.kind,
        step.nesterov,
        step.maximize,
        *step.random,
    )
    return h


def take_mixed(
    x: torch.Tensor, saved: torch.Tensor | None, mixed: torch.Tensor, step: LocalStep, alone: Lists
) -> None:
    """Make `mixed` `[agents, columns]` the models, from `saved` or x, and move quasi-global momentum by the way."""
    momentum = step.momentum if step.kind == 2 else None
    rates = (step.lr, step.mu, step.norm)
    mix_update(x, saved, mixed, momentum, alone.neighbors, alone.weights, *rates, *step.random)


def fused_step_(x: torch.Tensor, step: LocalStep, lists: Lists) -> None:
    """Local step, gossip by `lists` and momentum in one kernel, in place on `x`."""
    gossip_step(
        x,
        step.saved,
        step.g,
        step.momentum,
        lists.neighbors,
        lists.weights,
        step.lr,
        step.weight_decay,
        step.beta,
        step.mu,
        step.norm,
        step.kind,
        step.nesterov,
        step.maximize,
        *step.random,
    )


@dataclass
class Exchange:
    """What the messages of one row buffer are made of in one round.

    Attributes:
        layout: where tensors lie in the columns.
        states: the communicator's own state for this buffer, by name, `[agents, columns]` float32, updated. Public
            copies may be bfloat16 where a step is one kernel.
        seed: seed of a compressor's random numbers.
        number: int64, 0-d: steps done before; where `Gossip` does not talk once a step, gossips done before.
        squares: `[agents, 2]` float64: squared norms of what was to be sent and what compression lost of it;
            overwritten, untouched where nothing is compressed.
        nbytes: bytes sent so far by the agents here, counted by the communicator; int64 0-d on the device where rounds
            of a period send unlike.
        meetings: who talks to whom in each gossip of this step, where graphs change; empty where W stays.
        origin: whose states these are copies of; None where they are the states themselves.
        kept: rows that one step after the other may use, by what for.
        heard: what the last `publish` brought of other processes' agents, behind the rows that were published.
        halos: of states that are kept of the agents heard, too: `[agents + heard, columns]`, whose first rows are those
            in `states`.
    """

    layout: FlatLayout
    states: Mapping[str, torch.Tensor]
    seed: int
    number: torch.Tensor
    squares: torch.Tensor
    nbytes: int | torch.Tensor = 0
    meetings: tuple[Meeting, ...] = ()
    origin: Exchange | None = None
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    heard: torch.Tensor | None = None
    halos: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def halo_of(self, name: str) -> torch.Tensor:
        """A state of the agents here, then of those heard elsewhere."""
        return self.halos.get(name, self.states[name])

    @property
    def meeting(self) -> Meeting | None:
        """Who talks to whom in this gossip; None where W stays."""
        return self.meetings[0] if self.meetings else None

    def messages_of(self, communicator: Communicator) -> int | torch.Tensor:
        """Rows that such a gossip sends."""
        return communicator.messages if self.meeting is None else self.meeting.messages

    def count(self, messages: int | torch.Tensor) -> None:
        """So many rows of the layout were sent whole."""
        self.nbytes = self.nbytes + 4 * self.layout.dim * messages

    def memory(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Rows in memory that is kept for the next step, holding anything: fresh memory would cost more."""
        found = self.kept.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = self.kept[name] = torch.empty(shape, dtype=dtype, device=self.squares.device)
        return found

    def copy_of(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy of `rows` in such memory."""
        return self.memory("copy", rows.shape, rows.dtype).copy_(rows)

    def apart(self) -> Exchange:
        """The same with copies of its states, which become the states when it is settled."""
        halos = {name: rows.clone() for name, rows in self.halos.items()}
        states = {
            name: halos[name][: len(rows)] if name in halos else rows.clone()
            for name, rows in self.states.items()
        }
        squares = torch.zeros_like(self.squares)
        return replace(self, states=states, halos=halos, squares=squares, origin=self)

    def forget_ahead(self) -> None:
        """What may have been sent for the next step is not what that step will send."""
        self.kept.pop(AHEAD, None)

    def settle(self) -> None:
        """Make copies of states the states."""
        if self.origin is not None:
            for name in self.states:
                self.origin.halo_of(name).copy_(self.halo_of(name))
            self.origin.squares.copy_(self.squares)


class Communicator:
    """Moves rows between agents. Your own is one class: give it to an optimizer as `communicator=`, and write `mix`.

    The words below it have general forms, which a communicator overrides where it knows better. Rows are
    `[agents, columns]` float32, of one parameter group. Words that send count `exchange.nbytes`.

    Attributes:
        agents: rows of the buffers here; None before `connect` where they come from the parameters.
        first_agent: number of the first row's agent.
        all_agents: agents of the whole network.
        stacked: whether parameters are `[agents, ...]`; otherwise they are ordinary ones of a single agent.
        placement: who holds which agents, where they are in several processes; None where all are here.
        heard: how many agents elsewhere those here hear.
        schedule: which graph each gossip has, of all agents; None where there is none.
        topology: the graph with every edge of any round, of all agents; None where there is none.
        consensus_step: gamma.
        messages: rows sent in one exchange by the agents here, to all their neighbors together; where graphs change, to
            those of any round.
        states: what it keeps for each row buffer that is sent; for the models under these names.
        shared_states: what it keeps besides, once for the whole optimizer.
        hyperparameters, defaults: its entries of the parameter groups, what they may be, and their values.
        averages: whether agents meet in a mean of all, not in a mixing matrix.
        push_sum: whether what is mixed are sums, of which models are a weight's share; see `Gossip`.
        pushes: whether rows that are to keep their sum have a matrix of their own; see `PushPull`.
        is_compressed: whether messages are less than the rows.
        is_elementwise: whether columns have nothing to do with each other and states are none, so that a row may be
            exchanged piece by piece.
        may_refuse: whether it can raise in the middle of a step, as compressors do where numbers are not finite: all
            is copied before, and put back then.
        refuses_first: whether an exchange that is refused has changed nothing.
        decides_on_host: what it reads or counts on the host, which keeps a step out of a CUDA graph; None: nothing.
        once_a_step: whether each step has one exchange of each row, no more and no less.
    """

    agents: int | None = None
    first_agent: int = 0
    stacked: bool = True
    placement: Placement | None = None
    heard: int = 0
    schedule: Schedule | None = None
    topology: Topology | None = None
    consensus_step: float = 1.0
    messages: int = 0
    states: tuple[State, ...] = ()
    shared_states: tuple[State, ...] = ()
    hyperparameters: Mapping[str, Hyperparameter] = {}
    averages: bool = False
    push_sum: bool = False
    pushes: bool = False
    is_compressed: bool = False
    is_elementwise: bool = False
    may_refuse: bool = True
    refuses_first: bool = False
    decides_on_host: str | None = None
    once_a_step: bool = True

    @property
    def all_agents(self) -> int:
        return self.agents or 0

    @property
    def bytes_on_wire(self) -> int:
        """What has left this process for others, headers included."""
        return 0

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: rule.default for name, rule in self.hyperparameters.items()}

    @property
    def most_neighbors(self) -> int:
        """How many an agent hears in one exchange at most."""
        return 0 if self.topology is None else max(map(len, self.topology.neighbors))

    @property
    def given_up(self) -> str | None:
        """What is lost of what a schedule saves; None where nothing is."""
        return None

    @property
    def has_graph(self) -> bool:
        """Whether it is known who hears whom; a single agent hears nobody."""
        return self.topology is not None or (self.agents or 1) == 1

    def connect(self, leading: int | None) -> Communicator:
        """A communicator for an optimizer whose parameters have `leading` rows (None: no common number of them).

        What it keeps between steps is in the optimizer, so that one may serve several.

        Raises:
            ValueError: parameters that are not stacked.
        """
        if self.agents is None:
            raise ValueError(f"{type(self).__name__} must say how many agents it has")
        return self

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        """Raise ValueError, before anything moves, for parameter groups that it cannot work with."""

    def gossips(self, optimizer: Optimizer) -> bool:
        """Whether agents exchange rows in the step that begins now; they take local steps alone where not."""
        return True

    def meetings(self, optimizer: Optimizer) -> tuple[Meeting, ...]:
        """Who talks to whom in each gossip of the step that begins now; empty where that stays."""
        return ()

    def down(self, optimizer: Optimizer) -> torch.Tensor | None:
        """Who has no part in the step that begins now, bool; None where all have.

        Agents here, `[agents]`, and behind them those elsewhere whose states are kept here, where there are such.

        They neither step nor talk, and all that is kept of them stays as it is.
        """
        return None

    def gossips_begun(self, steps: int) -> int:
        """How many gossips there have been, and begin with the steps before one, after so many steps."""
        return steps

    def meets(self, optimizer: Optimizer) -> bool:
        """Whether the step that begins now ends with an exchange, when all groups have stepped."""
        return False

    def finish(self, optimizer: Optimizer) -> int:
        """Called when all groups have stepped. Returns bytes sent."""
        return 0

    def synchronize(self, optimizer: Optimizer) -> int:
        """Bring all agents together now. Returns bytes sent.

        Raises:
            RuntimeError: they never meet.
        """
        raise RuntimeError(f"{type(self).__name__} has no synchronization, agents mix in each step")

    def center(self, optimizer: Optimizer) -> torch.Tensor | None:
        """The row `[stride]` of the model to evaluate; None where that is the agents' mean."""
        return None

    def lists(self, device: torch.device) -> Lists:
        """The neighbor lists of a W that stays, on a device; where graphs change `Round.lists` has a step's.

        Raises:
            RuntimeError: it has none.
        """
        raise RuntimeError(f"{type(self).__name__} has no neighbor lists")

    def alone(self, device: torch.device) -> Lists:
        """Lists by which every agent reads its own row alone, on a device."""
        own = torch.arange(self.agents or 1, dtype=torch.int32, device=device)[:, None]
        return Lists(own, torch.ones(len(own), 1, dtype=torch.float32, device=device), own[:, 1:])

    def lists_of_w(self, device: torch.device, meeting: Meeting | None = None) -> Lists:
        """Neighbor lists with the weights of W itself, whatever the consensus step is.

        Args:
            device: where they are to be.
            meeting: of which gossip, where graphs change.

        Raises:
            RuntimeError: it has none.
        """
        return self.lists(device) if meeting is None else meeting.lists

    def mix_all(
        self, rows: tuple[torch.Tensor, ...], exchanges: list[Exchange]
    ) -> tuple[torch.Tensor, ...]:
        """`mix` of several row buffers of one step, in one exchange where that can be."""
        return tuple(self.mix(x, e) for x, e in zip(rows, exchanges, strict=True))

    def mix(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """One exchange: W x with the consensus step folded in, new, `[agents, columns]`. Counts `exchange.nbytes`."""
        # what a communicator is
        raise NotImplementedError

    def differences(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """One exchange: `mix(x) - x`, new; where it can, so that what an edge moves cancels to the bit."""
        return self.mix(x, exchange) - x

    def pushed(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """`mix` by a matrix whose columns sum to one, so that the sum of all agents' rows is kept."""
        return self.mix(x, exchange)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        """Local step, one exchange of the models after it, momentum; all in place on `x`."""
        mixed = self.mix(local_models(x, step), exchange)
        take_mixed(x, step.saved, mixed, step, self.alone(x.device))

    def publish(self, x: torch.Tensor, exchange: Exchange) -> None:
        """One exchange of which nothing is mixed yet: neighbors know models x from now on; states follow."""
        exchange.count(exchange.messages_of(self))

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """What neighbors know of models x after `publish`, then of the agents heard from elsewhere; may be x itself."""
        return x

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """x mixed with what was published, new: `publish` and `pulled` are `mix` in two words."""
        return self.mix(x, replace(exchange))

    def loaded(self) -> None:
        """States were loaded: what was made of them before is old."""

    def catch_up(self) -> None:
        """Take in what was sent to agents here and has not been read yet: rows are to be laid out anew, or copied."""

    def send_ahead(self, rows: list[tuple[torch.Tensor, Exchange]]) -> None:
        """Called when a step is done, with overlap: begin to send rows that the next step mixes as they are now.

        Args:
            rows: of all parameter groups, with the exchanges that they will be mixed in.
        """

    def halo(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of the agents here, then of the foreign ones that they hear; x itself where there are none."""
        return x

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        """Send a row along each directed edge: `lists(...).incoming` says where what was sent to an agent lies.

        `rows` are blocks of one row an agent: block k is sent to each one's k-th neighbor. Where all agents are here
        they are given back as they are.
        """
        return rows

    def send_slot(self, slot: int, rows: torch.Tensor) -> None:
        """Begin `deliver` for one block, `[agents, ...]` float32 or uint8, which goes to each one's neighbor `slot`.

        Where one is sent so, all are, one after the other; `slots_arrived` then gives what has come.
        """

    def slots_arrived(self) -> torch.Tensor | None:
        """What `send_slot` has brought, `[arriving, ...]`, each row once; None where nothing was sent so."""
        return None

    @property
    def overlaps(self) -> bool:
        """Whether messages are to travel while gradients are taken."""
        return self.placement is not None and self.placement.overlap == "auto"

    @property
    def arriving(self) -> tuple[tuple[int, int], ...]:
        """(agent, which of its neighbors, from 0 on) of each edge from elsewhere to here, as `deliver` brings them."""
        return ()

    def deliver_bytes(self, rows: torch.Tensor) -> torch.Tensor:
        """`deliver` of uint8 `[rows, bytes]`, but what has come from elsewhere alone, uint8 `[arriving, bytes]`."""
        return rows[:0]

    def resume(self, exchanges: list[Exchange]) -> None:
        """States were loaded: take the rows of agents elsewhere in `halos` from their owners, who all do the same."""

    def mean(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean `[columns]` float32 of x `[agents, columns]`, and squared distances to it `[agents]` float64."""
        mean = torch.empty(x.shape[1], dtype=torch.float32, device=x.device)
        squared_distance = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        if x.shape[1]:
            consensus(x, mean, squared_distance)
        else:
            squared_distance.zero_()
        return mean, squared_distance

    def rows_of_all(self, x: torch.Tensor) -> torch.Tensor:
        """All agents' rows in their order, new, `[all agents, ...]`, of x `[agents, ...]`."""
        return x.clone()

    def point(self, x: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        """While closures run: rows x are those that gradients are taken at (for push-sum, numerators over weights)."""
        return contextlib.nullcontext()

    def join(self, agreement: Agreement, steps: Callable[[], int]) -> None:
        """Called once where agents are in several processes, when all ranks have made the same optimizer.

        Args:
            agreement: what ranks know of each other.
            steps: says how many steps the optimizer has done.
        """

    def begin(self, optimizer: Optimizer) -> None:
        """Before anything of a step: raise where agents in other processes are out of reach for good."""

    def compare(
        self, cause: str, facts: Callable[[], Mapping[str, str]], together: bool = False
    ) -> None:
        """Something has changed here that must change alike on all ranks: raise everywhere where it has not.

        Args:
            cause: what, in at most 72 characters.
            facts: gives what must be equal everywhere, by name.
            together: whether all ranks are known to exchange with each other next, and not with neighbors alone.
        """

    def look(self) -> None:
        """Where results are read: raise for what could not be seen when it came, as on a GPU."""

    def agree(self, norm: torch.Tensor) -> None:
        """Before a step changes anything: raise everywhere or nowhere, where agents are in several processes."""

    def is_anywhere(self, here: bool) -> bool:
        """Whether something that is so here, or is not, is so in any of the processes; all of them must ask."""
        return here

    def withdraw(self, error: BaseException) -> None:
        """A step has failed here by `error`: tell those in other processes who wait for this one."""


class Round:
    """One parameter group's exchanges in one step: what `comm` is in `Rule.step`.

    Attributes:
        communicator: how rows travel.
        gossips: whether this step has an exchange at all; where not, rows mixed are rows as they were.
        meetings: who talks to whom in each gossip of the step, where graphs change.
        exchanges: of each row buffer that the rule sends, in order.
        told: where the gradient has published the models already: those mixed.
    """

    def __init__(
        self,
        communicator: Communicator,
        exchanges: list[Exchange],
        sends: tuple[str, ...],
        gossips: bool = True,
        meetings: tuple[Meeting, ...] = (),
    ) -> None:
        self.communicator, self.exchanges, self.gossips = communicator, list(exchanges), gossips
        self.meetings = meetings
        for exchange in exchanges:
            exchange.nbytes, exchange.meetings = 0, meetings
        self.told: torch.Tensor | None = None
        self._sends, self._sent = sends, 0

    @property
    def nbytes(self) -> int | torch.Tensor:
        """Bytes sent so far."""
        return sum(exchange.nbytes for exchange in self.exchanges)

    @property
    def messages(self) -> int | torch.Tensor:
        """Rows that are sent whole in the step's first exchange, to all neighbors together."""
        return self.meetings[0].messages if self.meetings else self.communicator.messages

    def mixed(self, *rows: torch.Tensor) -> Any:
        """W rows, new: sum_j W_ij rows_j with the consensus step folded in; a tuple where several are given.

        With a compressor each row buffer of a step has its own public copies, in the order of `Rule.sends`:
        rows + gamma (W copies - copies), after the copies have moved by what was sent.
        """
        if not self.gossips:
            return _one_or_all(tuple(x.clone() for x in rows))
        exchanges = [self._take() for _ in rows]
        return _one_or_all(self.communicator.mix_all(rows, exchanges))

    def pushed(self, x: torch.Tensor) -> torch.Tensor:
        """`mixed(x)` of a row whose sum over all agents is to be kept, also where W keeps agreement alone."""
        return self.communicator.pushed(x, self._take()) if self.gossips else x.clone()

    def differences(self, *rows: torch.Tensor) -> Any:
        """`mixed(rows) - rows`, new, but what an edge moves cancels to the bit; a tuple where several are given."""
        if not self.gossips:
            return _one_or_all(tuple(map(torch.zeros_like, rows)))
        return _one_or_all(tuple(self.communicator.differences(x, self._take()) for x in rows))

    def mixed_models(self, x: torch.Tensor) -> torch.Tensor:
        """`mixed(x)` of the models, which are not sent again where the gradient has published them in this step."""
        return self.mixed(x) if self.told is None else self.told

    def gossip_step_(self, x: torch.Tensor, step: LocalStep) -> None:
        """Local step, exchange, momentum: all in place on the models x, in one kernel where that can be."""
        if self.gossips:
            self.communicator.gossip_step_(x, step, self._take())
        else:
            fused_step_(x, step, self.communicator.alone(x.device))

    def apart(self) -> Exchange:
        """Go on with copies of the models' states, as nothing may change yet; `settle` makes them the states."""
        self.exchanges[0] = self.exchanges[0].apart()
        return self.exchanges[0]

    def settle(self) -> None:
        """The step is done."""
        for exchange in self.exchanges:
            exchange.settle()

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        """A row along each directed edge, see `Communicator.deliver`."""
        exchange = self._take()
        exchange.count(self.messages)
        return self.communicator.deliver(rows)

    def lists(self, device: torch.device) -> Lists:
        """The neighbor lists of the step's first exchange."""
        return self.meetings[0].lists if self.meetings else self.communicator.lists(device)

    def piece(self, part: slice) -> Round:
        """The same round for some of the group's columns, where nothing is compressed. The first one's bytes count."""
        # not made anew: that would forget the bytes of what the gradient has sent
        piece = copy.copy(self)
        piece.told = None if self.told is None else self.told[:, part]
        piece.exchanges = [e if part.start == 0 else replace(e) for e in self.exchanges]
        return piece

    def _take(self) -> Exchange:
        """The next row buffer's exchange."""
        if self._sent >= len(self.exchanges):
            raise RuntimeError(
                f"a rule that sends {self._sent + 1} row buffers a step must name them in `sends`, "
                f"got {self._sends}"
            )
        self._sent += 1
        return self.exchanges[self._sent - 1]


def _one_or_all(found: tuple[torch.Tensor, ...]) -> Any:
    return found if len(found) > 1 else found[0]
