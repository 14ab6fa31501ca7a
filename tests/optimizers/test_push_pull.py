"""Push-Pull against float64 oracles, where R and C come from, and what is refused."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Identity
from fastsaddle.graphs.schedule import kind_of
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    RATE,
    AgentLosses,
    advance,
    close,
    groups,
    rows,
    train,
)
from tests.optimizers.combination_oracles import Taken
from tests.optimizers.directed_oracles import PushPull, digraph
from tests.optimizers.test_push_sum import AGENTS, Unending, directed

pytestmark = pytest.mark.usefixtures("one_thread")
BACKENDS = ("reference", "native")


def equal(W: torch.Tensor, columns: bool) -> torch.Tensor:
    """Equal weights on the edges of W and on each agent itself."""
    links = (W > 0).double()
    links.fill_diagonal_(1)
    return links / links.sum(0 if columns else 1, keepdim=True)


def sequence(seed: int, columns: bool) -> fs.Schedule:
    graphs = [directed(digraph(AGENTS, seed + k, columns, connected=k == 1)) for k in range(3)]
    return fs.topology.sequence([*graphs, fs.topology.directed_ring(AGENTS)])


# what is given, and whether R and C are its W or weighed anew
GRAPHS: dict[str, tuple[Callable[[int], Any], bool, bool]] = {
    "columns": (lambda seed: directed(digraph(AGENTS, seed)), False, True),
    "rows": (lambda seed: directed(digraph(AGENTS, seed, columns=False)), True, False),
    "sequence of rows": (lambda seed: sequence(seed, False), True, False),
    "sequence of columns": (lambda seed: sequence(seed, True), False, True),
    "unending": (Unending, False, True),
    "ring": (lambda seed: fs.topology.ring(AGENTS), True, True),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sam", [False, True])
@pytest.mark.parametrize("graph", GRAPHS)
def test_follows_the_equations(graph: str, sam: bool, backend: str, seed: int) -> None:
    make, is_r, is_c = GRAPHS[graph]
    given, gamma = make(seed), 0.8
    world = AgentLosses(AGENTS, seed)
    parameters = world.parameters()
    owned, eta, decay = groups(parameters)
    common: dict[str, Any] = {"lr": RATE, "weight_decay": DECAY, "backend": backend}
    if sam:
        communicator = fs.comm.PushPull(given, consensus_step=gamma)
        gradient, rule = fs.gradients.SAM(0.1), fs.rules.PushPull()
        optimizer = fs.Optimizer(
            owned, gradient=gradient, rule=rule, communicator=communicator, **common
        )
    else:
        optimizer = fs.PushPull(owned, topology=given, consensus_step=gamma, **common)
    eye = torch.eye(AGENTS).double()
    taken = Taken(world, rho=0.1 if sam else None)
    oracle = PushPull(rows(world.start), eye, taken, eta, decay)
    oracle.g = lambda x: taken.all(x) + decay * x  # type: ignore[method-assign]

    def weighed(t: int, own: bool, columns: bool) -> torch.Tensor:
        W = given.at(t).W
        is_doubly = (W.sum(0) - 1).abs().max() < 1e-9 and (W.sum(1) - 1).abs().max() < 1e-9
        return (1 - gamma) * eye + gamma * (W if own or is_doubly else equal(W, columns))

    oracle.pulled = lambda t: weighed(t, is_r, False)
    oracle.pushed = lambda t: weighed(t, is_c, True)
    train(optimizer, world, parameters)
    advance(oracle, world)
    assert (oracle.x - rows(world.start)).abs().max() > 0.05
    close(rows(parameters), oracle.x)
    assert optimizer.bytes_sent == 8 * DIM * sum(given.at(t).messages for t in range(20))


def test_reaches_the_optimum(seed: int) -> None:
    """At a rate that stays, on uneven digraphs, also where C is of another graph than R."""
    draw = torch.Generator().manual_seed(seed)
    targets = 10 * torch.randn(8, 33, generator=draw)
    R, C = directed(digraph(8, seed, columns=False)), directed(digraph(8, seed + 1))
    for options in ({}, {"push_topology": C}):
        x = torch.nn.Parameter(torch.zeros(8, 33))
        optimizer = fs.PushPull([x], lr=0.02, topology=R, **options)
        for _ in range(3000):
            x.grad = x.detach() - targets
            optimizer.step()
        # the float32 sum of what is tracked drifts, by up to 5e-8 a step
        assert (x.detach() - targets.double().mean(0)).abs().max() < 1e-3
        # what is tracked adds up to the gradients
        tracked = optimizer.flat_state["tracked"].double().sum(0)
        assert (tracked[:33] - (x.detach() - targets).double().sum(0)).abs().max() < 2e-3


def test_copies_and_loading(seed: int) -> None:
    world = AgentLosses(AGENTS, seed)
    parameters = world.parameters()
    optimizer = fs.PushPull(groups(parameters)[0], topology=sequence(seed, True))
    train(optimizer, world, parameters, 6)
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    loaded = fs.PushPull(groups(fresh)[0], topology=sequence(seed, True))
    loaded.load_state_dict(optimizer.state_dict())
    twins = [(loaded, fresh)]
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        first, second = (group["params"] for group in twin.param_groups)
        twins.append((twin, [first[0], second[0], first[1], second[1], first[2]]))
    train(optimizer, world, parameters, 5)
    for twin, own in twins:
        train(twin, world, own, 5)
        assert torch.equal(rows(own), rows(parameters))


def test_weights_of_a_graphs_edges(seed: int) -> None:
    W = digraph(AGENTS, seed)
    for weigh, columns in (
        (fs.topology.column_stochastic, True),
        (fs.topology.row_stochastic, False),
    ):
        for given in (W, W / W.sum(1, keepdim=True)):
            graph = directed(given)
            kept = graph.kind == f"{'column' if columns else 'row'}-stochastic"
            found = weigh(graph)
            assert found is graph if kept else torch.equal(found.W, equal(given, columns))
        ring = fs.topology.one_peer_exponential(AGENTS)
        assert weigh(ring) is ring
        changing = weigh(Unending(seed) if not columns else sequence(seed, False))
        assert kind_of(changing) == f"{'column' if columns else 'row'}-stochastic"
        again = pickle.loads(pickle.dumps(changing))
        assert torch.equal(again.at(2).W, changing.at(2).W) and again.name == changing.name


def test_with_gossip_it_is_tracking_that_adapts_first(seed: int) -> None:
    made = []
    for communicator in (
        fs.comm.PushPull("ring"), fs.comm.Gossip("ring"), fs.comm.Gossip("ring", compressor=Identity()),
    ):  # fmt: skip
        world = AgentLosses(AGENTS, seed)
        parameters = world.parameters()
        optimizer = fs.Optimizer(
            parameters, rule=fs.rules.PushPull(), communicator=communicator, lr=0.05
        )
        train(optimizer, world, parameters, 9)
        made.append(rows(parameters))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_refused(seed: int) -> None:
    z = [torch.nn.Parameter(torch.randn(AGENTS, 3))]
    by_rows = directed(digraph(AGENTS, seed, columns=False))
    with pytest.raises(
        ValueError, match=r"PushPull has two matrices, for fs\.rules\.PushPull, got"
    ):
        fs.Optimizer(z, rule=fs.rules.D2(), communicator=fs.comm.PushPull(by_rows))
    with pytest.raises(ValueError, match="must both stay, both have a period or both be drawn"):
        fs.PushPull(z, topology=by_rows, push_topology=sequence(seed, True))
    with pytest.raises(ValueError, match=r"row-stochastic: gossip along it moves the mean"):
        fs.Optimizer(z, rule=fs.rules.PushPull(), communicator=fs.comm.Gossip(by_rows))
    with pytest.raises(ValueError, match=r"MomentumSAM needs a momentum buffer, PushPull has none"):
        fs.Optimizer(
            z,
            gradient=fs.gradients.SAM(sam=fs.MomentumSAM()),
            rule=fs.rules.PushPull(),
            communicator=fs.comm.PushPull(by_rows),
        )
    with pytest.raises(ValueError, match="topology must be a Schedule"):
        fs.comm.PushPull(3)
    with pytest.raises(ValueError, match="consensus_step must be in"):
        fs.comm.PushPull("ring", consensus_step=2)


def test_faults(seed: int) -> None:
    """Who is down is so for both matrices, or all is refused."""
    z = [torch.nn.Parameter(torch.randn(AGENTS, 3))]
    ring = fs.topology.ring(AGENTS)
    failing = fs.Faults(links=0.2, agents=0.3, seed=seed).over(ring)
    optimizer = fs.PushPull(z, lr=0.05, topology=failing)
    for t in range(8):
        before, down = z[0].detach().clone(), failing.down(t)
        z[0].grad = torch.randn(AGENTS, 3)
        optimizer.step()
        assert torch.equal(z[0][down], before[down])
    tracked, gradient = (optimizer.flat_state[name].sum(0) for name in ("tracked", "gradient"))
    torch.testing.assert_close(tracked, gradient, atol=1e-4, rtol=1e-5)
    for graph in (fs.topology.directed_ring(AGENTS), directed(digraph(AGENTS, seed))):
        with pytest.raises(ValueError, match="only the sums of columns can be kept, for push-sum"):
            fs.PushPull(z, topology=fs.Faults(links=0.2).over(graph))
    for two in ((failing, fs.topology.matchings(AGENTS)), (fs.topology.matchings(AGENTS), failing)):
        with pytest.raises(ValueError, match="down must be so along both matrices"):
            fs.PushPull(z, topology=two[0], push_topology=two[1])
