"""Push-sum against float64 oracles, and what it keeps: sums, weights, bits where W is doubly stochastic."""

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Identity, StochasticQuantizer
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
from tests.optimizers.directed_oracles import PushSum, digraph

pytestmark = pytest.mark.usefixtures("one_thread")
BACKENDS = ("reference", "native")
AGENTS = 6
from_matrix = fs.topology.from_matrix


def directed(W: torch.Tensor) -> fs.Topology:
    return from_matrix(W, directed=True, allow_disconnected=True)


class Unending:
    """Digraphs that never come again, drawn by the round."""

    period, name, agents, kind = None, "unending", AGENTS, "column-stochastic"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.union = directed(torch.full((AGENTS, AGENTS), 1 / AGENTS))

    def at(self, round: int) -> fs.Topology:
        return directed(digraph(AGENTS, 31 * self.seed + round))


SCHEDULES: dict[str, Callable[[int], Any]] = {
    "digraph": lambda seed: directed(digraph(AGENTS, seed)),
    "sequence": lambda seed: fs.topology.sequence(
        [directed(digraph(AGENTS, seed + k, connected=k == 1)) for k in range(3)]
        + [fs.topology.ring(AGENTS)]
    ),
    "unending": Unending,
    "ring": lambda seed: fs.topology.ring(AGENTS),
    "one-peer": lambda seed: fs.topology.one_peer_exponential(AGENTS),
}
# optimizer, options, what the oracle is told besides
METHODS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "dsgd": (fs.DSGD, {}, {}),
    "dsgdm": (fs.DSGDm, {"momentum": 0.8, "nesterov": True}, {}),
    "dsaddle": (fs.DSADDLe, {"rho": 0.1}, {}),
    "qgm": (fs.QGM, {"momentum": 0.9, "qg_momentum": 0.8}, {"qg": 0.8}),
    "qsaddle": (fs.QSADDLe, {"rho": 0.1, "momentum": 0.7, "nesterov": True}, {"qg": 0.7}),
}


def oracle_of(
    world: AgentLosses,
    schedule: Any,
    options: dict[str, Any],
    sets: dict[str, Any],
    eta: torch.Tensor,
    decay: torch.Tensor,
    gamma: float = 1.0,
) -> PushSum:
    taken = Taken(world, rho=options.get("rho"), sign=world.sign)
    sgd = {n: options[n] for n in ("momentum", "nesterov") if n in options}
    made = PushSum(
        rows(world.start),
        torch.eye(AGENTS).double(),
        taken,
        eta,
        decay,
        **sgd,
        maximize=world.sign < 0,
    )
    made.g = lambda x: made.sign * taken.all(x) + made.decay * x  # type: ignore[method-assign]
    eye = torch.eye(AGENTS).double()
    made.rounds_of = lambda t: (1 - gamma) * eye + gamma * schedule.at(t).W
    if "qg" in sets:
        # what is stepped along is not kept
        made.sgd = lambda y: quasi_global(made, y)  # type: ignore[method-assign]
    for name, value in sets.items():
        setattr(made, name, value)
    return made


def quasi_global(made: PushSum, y: torch.Tensor) -> torch.Tensor:
    m = made.beta * made.m + y
    return y + made.beta * m if made.nesterov else m


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", METHODS)
def test_follows_the_equations(name: str, schedule: str, backend: str, seed: int) -> None:
    method, options, sets = METHODS[name]
    graphs, world = SCHEDULES[schedule](seed), AgentLosses(AGENTS, seed)
    parameters = world.parameters()
    given, eta, decay = groups(parameters)
    optimizer = method(
        given, lr=RATE, weight_decay=DECAY, topology=graphs, push_sum=True, backend=backend, **options
    )  # fmt: skip
    oracle = oracle_of(world, graphs, options, sets, eta, decay)
    train(optimizer, world, parameters)
    advance(oracle, world)
    assert (oracle.x - rows(world.start)).abs().max() > 0.05
    close(rows(parameters), oracle.x)
    w = optimizer.state[parameters[0]]["push_weight"]
    close(w[:, None], oracle.w)
    assert w.dtype == torch.float64 and (w > 0).all() and abs(w.sum() - AGENTS) < 1e-12
    assert optimizer.bytes_sent == 4 * DIM * sum(graphs.at(t).messages for t in range(20))
    if schedule in ("ring", "one-peer"):
        assert (w == 1).all()
    else:
        assert (w - 1).abs().max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "often", [{"every": 3}, {"rounds": 2}, {"every": 2, "rounds": 3, "dense": True}], ids=str
)
@pytest.mark.parametrize("schedule", ["digraph", "sequence", "unending"])
@pytest.mark.parametrize("kind", ["local", "quasi-global"])
def test_several_steps_and_gossips(
    kind: Any, schedule: str, often: dict[str, Any], backend: str, seed: int
) -> None:
    graphs, world = SCHEDULES[schedule](seed), AgentLosses(AGENTS, seed, sign=-1.0)
    parameters = world.parameters()
    optimizer = fs.Optimizer(
        parameters,
        RATE,
        rule=fs.rules.Momentum(kind, momentum=0.6),
        communicator=fs.comm.Gossip(graphs, consensus_step=0.7, push_sum=True, **often),
        weight_decay=DECAY,
        maximize=True,
        backend=backend,
    )
    sets = {n: v for n, v in often.items() if n != "dense"}
    sets |= {"qg": 0.6} if kind == "quasi-global" else {}
    eta, decay = torch.full((DIM,), RATE).double(), torch.full((DIM,), DECAY).double()
    oracle = oracle_of(world, graphs, {"momentum": 0.6}, sets, eta, decay, gamma=0.7)
    train(optimizer, world, parameters)
    advance(oracle, world)
    close(rows(parameters), oracle.x)
    close(optimizer.state[parameters[0]]["push_weight"][:, None], oracle.w)


DOUBLY: dict[str, Callable[[int], Any]] = {
    "directed ring": lambda n: fs.topology.directed_ring(n),
    "one-peer": lambda n: fs.topology.one_peer_exponential(n),
    "star": lambda n: fs.topology.star(n),
    "matchings": lambda n: fs.topology.matchings(n, seed=3),
    "dense": lambda n: fs.topology.fully_connected(66),
}


@pytest.mark.parametrize("graph", DOUBLY)
@pytest.mark.parametrize("name", METHODS)
def test_bits_are_those_without_it_where_weights_are_one(name: str, graph: str, seed: int) -> None:
    method, options, _ = METHODS[name]
    graphs = DOUBLY[graph](7)
    world = AgentLosses(graphs.agents, seed)
    made = []
    for push_sum in (False, True):
        for half in (False, True):
            parameters = world.parameters()
            dtype = torch.bfloat16 if half else torch.float32
            optimizer = method(
                groups(parameters)[0], topology=graphs, push_sum=push_sum, state_dtype=dtype,
                weight_decay=0.01, **options,
            )  # fmt: skip
            train(optimizer, world, parameters, 8)
            made.append((optimizer, parameters))
    for (one, ours), (other, theirs) in zip(made[:2], made[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        for name, rows_of in one.flat_state.items():
            assert torch.equal(rows_of, other.flat_state[name])
        assert one.bytes_sent == other.bytes_sent


def quadratics(graphs: Any, steps: int, targets: torch.Tensor) -> Any:
    z = torch.nn.Parameter(torch.zeros_like(targets))
    optimizer = fs.DSGD([z], topology=graphs, push_sum=True)
    group = optimizer.param_groups[0]
    for t in range(steps):
        group["lr"] = 0.5 / (1 + t) ** 0.75
        z.grad = z.detach() - targets
        optimizer.step()
    return z.detach(), optimizer


def equal_shares(hops: tuple[int, ...], further: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Which of 8 agents hears which: those so many places before it, some further ones, itself."""
    heard = sum((torch.eye(8).roll(hop, 0) for hop in hops), torch.eye(8)).double()
    for sender, hearer in further:
        heard[hearer, sender] = 1
    return heard


@pytest.mark.parametrize(
    ("links", "is_even"),
    [
        # agents send to 3 or 4; weights from 0.75 on
        (equal_shares((1, 2, 4), ((0, 5), (2, 7), (7, 5))), True),
        # to 1 or 2, weights from 0.17 on
        (equal_shares((1,), ((0, 4), (2, 6), (7, 3), (1, 7))), False),
    ],
)
def test_reaches_the_optimum_where_row_stochastic_gossip_does_not(
    links: torch.Tensor, is_even: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    targets, steps = 10 * torch.randn(8, 33, generator=draw), 6000
    optimum = targets.double().mean(0)
    z, optimizer = quadratics(from_matrix(links / links.sum(0), directed=True), steps, targets)
    # at a rate that still is 7e-4 agents of an uneven graph are apart, their mean is there
    models = z if is_even else z.double().mean(0)
    assert (models - optimum).abs().max() <= 2e-2
    w = optimizer.scalar_state["push_weight"][0]
    assert (w > 0).all() and abs(w.sum() - 8) < 1e-11
    # the same edges, rows that sum to one, in float64
    R, x = links / links.sum(1, keepdim=True), torch.zeros(8, 33).double()
    for t in range(steps):
        x = R @ (x - 0.5 / (1 + t) ** 0.75 * (x - targets))
    assert (x - optimum).abs().amax(1).min() >= 0.1


def test_sums_are_kept(seed: int) -> None:
    """Of numerators, to float32's rounding; of weights in float64; and agents that agree stay so."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(AGENTS, 257, generator=draw)
    for schedule in SCHEDULES:
        z = torch.nn.Parameter(start.clone())
        optimizer = fs.DSGD([z], lr=0.0, topology=SCHEDULES[schedule](seed), push_sum=True)
        z.grad = torch.zeros_like(z)
        for _ in range(300):
            optimizer.step()
        w = optimizer.state[z]["push_weight"]
        mean = start.double().mean(0)
        drift = (w[:, None] * z.detach()).mean(0) - mean
        assert drift.abs().max() < 1e-5 and drift.mean().abs() < 5e-7
        assert abs(w.sum() - AGENTS) < 1e-12
        assert (z.detach() - mean).abs().max() < 1e-4


def test_small_weights(seed: int) -> None:
    """Agents that next to nobody hears count like all others."""
    n = 12
    P = torch.eye(n).double().roll(1, 0) * 0.5 + 0.5 * torch.eye(n).double()
    # agent 0 keeps nearly all that it gets
    P[:, 0] = 0
    P[0, 0], P[1, 0] = 1 - 2**-13, 2**-13
    graph, targets = from_matrix(P, directed=True), torch.full((n, 5), 3.0)
    targets[4:] = -1.0
    z = torch.nn.Parameter(torch.zeros(n, 5))
    optimizer = fs.DSGD([z], lr=1e-4, topology=graph, push_sum=True)
    x, w = torch.zeros(n, 5).double(), torch.ones(n, 1).double()
    for _ in range(2000):
        z.grad = z.detach() - targets
        optimizer.step()
        x = P @ (x - 1e-4 * (x / w - targets))
        w = P @ w
    assert w.min() < 0.01
    close(z.detach().double(), x / w)


def test_norms_and_sam_see_the_models(seed: int) -> None:
    world = AgentLosses(AGENTS, seed)
    parameters = world.parameters()
    optimizer = fs.DSADDLe(parameters, topology=directed(digraph(AGENTS, seed)), push_sum=True)
    train(optimizer, world, parameters, 5)
    before = [p.detach().clone() for p in parameters]
    seen = []

    def closure() -> torch.Tensor:
        seen.append(rows(parameters))
        return world.closure(optimizer, parameters)()

    optimizer.step(closure)
    assert torch.equal(seen[0], rows(before))
    radius = (seen[1] - seen[0]).norm(dim=1)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.05), rtol=1e-4, atol=0)


@pytest.mark.parametrize("schedule", ["digraph", "sequence", "unending"])
@pytest.mark.parametrize("name", METHODS)
def test_goes_on_bit_for_bit(name: str, schedule: str, seed: int) -> None:
    method, options, _ = METHODS[name]
    graphs, world = SCHEDULES[schedule](seed), AgentLosses(AGENTS, seed)

    def make() -> tuple[Any, list[torch.Tensor]]:
        parameters = world.parameters()
        return method(groups(parameters)[0], topology=graphs, push_sum=True, **options), parameters

    optimizer, parameters = make()
    train(optimizer, world, parameters, 7)
    file = io.BytesIO()
    torch.save({"z": parameters, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh, theirs = make()
    with torch.no_grad():
        for p, value in zip(theirs, saved["z"], strict=True):
            p.copy_(value)
    fresh.load_state_dict(saved["optimizer"])
    twins = [(fresh, theirs), *(twin_of(optimizer, how) for how in (copy.deepcopy, pickled))]
    train(optimizer, world, parameters, 6)
    for twin, own in twins:
        train(twin, world, own, 6)
        assert torch.equal(rows(own), rows(parameters))
        assert torch.equal(twin.scalar_state["push_weight"], optimizer.scalar_state["push_weight"])


def pickled(optimizer: Any) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


def twin_of(optimizer: Any, how: Callable[[Any], Any]) -> tuple[Any, list[torch.Tensor]]:
    twin = how(optimizer)
    first, second = (group["params"] for group in twin.param_groups)
    return twin, [first[0], second[0], first[1], second[1], first[2]]


def test_weights_are_everybodys(seed: int) -> None:
    """Of groups that stand still for a while or come later, too: w is a function of the schedule alone."""
    draw = torch.Generator().manual_seed(seed)
    P = digraph(AGENTS, seed)
    a, b, c = (
        torch.nn.Parameter(torch.randn(AGENTS, k, generator=draw)) for k in (4, 33, 7)
    )  # fmt: skip
    optimizer = fs.DSGD(
        [{"params": [a]}, {"params": [b]}], lr=0.1, topology=directed(P), push_sum=True
    )
    z, w = {p: p.detach().double() for p in (a, b, c)}, torch.ones(AGENTS, 1).double()

    def step(*moving: torch.nn.Parameter) -> None:
        nonlocal w
        for p in moving:
            p.grad = torch.sin(p.detach())
        optimizer.step()
        for p in moving:
            z[p] = P @ (w * z[p] - 0.1 * torch.sin(z[p])) / (P @ w)
        w = P @ w

    for _ in range(3):
        step(a, b)
    b.requires_grad_(False)
    held = b.detach().clone()
    for _ in range(4):
        step(a)
    assert torch.equal(b, held)
    b.requires_grad_(True)
    optimizer.add_param_group({"params": [c]})
    for _ in range(3):
        step(a, b, c)
    for p, model in z.items():
        close(p.detach().double(), model)
        close(optimizer.state[p]["push_weight"][:, None], w)
    # a model that is written by hand is what the next step goes on from
    with torch.no_grad():
        a.fill_(2.0)
    z[a] = torch.full((AGENTS, 4), 2.0).double()
    step(a, b, c)
    close(a.detach().double(), z[a])


def test_agents_without_a_gradient_pass_on_what_they_have(seed: int) -> None:
    P = digraph(AGENTS, seed)
    z = torch.nn.Parameter(torch.randn(AGENTS, 9))
    start = z.detach().double()
    optimizer = fs.QGM([z], lr=0.1, topology=directed(P), push_sum=True, nonfinite="skip")
    z.grad = torch.ones_like(z)
    z.grad[2] = math.nan
    optimizer.step()
    taken = 0.1 * torch.ones(AGENTS, 1).double()
    taken[2] = 0
    close(z.detach().double(), P @ (start - taken) / P.sum(1, keepdim=True))


def test_one_agent_and_average_of_all(seed: int) -> None:
    p = torch.nn.Parameter(torch.randn(5))
    twin = torch.nn.Parameter(p.detach().clone())
    one, other = fs.DSGD([p], push_sum=True), fs.DSGD([twin])
    for optimizer, q in ((one, p), (other, twin)):
        q.grad = torch.ones_like(q)
        optimizer.step()
    assert torch.equal(p, twin) and float(one.state[p]["push_weight"]) == 1.0


def test_consensus_is_of_models(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(torch.nn.Linear(3, 2), AGENTS)
    optimizer = fs.DSGD(stack.parameters(), topology=directed(digraph(AGENTS, seed)), push_sum=True)
    for _ in range(3):
        for p in stack.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    for p, mean in zip(stack.parameters(), stack.consensus().parameters(), strict=True):
        torch.testing.assert_close(mean, p.mean(0))
    assert torch.equal(
        optimizer.gathered("push_weight")[:, 0], optimizer.scalar_state["push_weight"][0]
    )


def test_refused(seed: int) -> None:
    z = [torch.nn.Parameter(torch.randn(AGENTS, 3))]
    columns, by_rows = (
        directed(digraph(AGENTS, seed)),
        directed(digraph(AGENTS, seed, columns=False)),
    )
    ring = fs.topology.ring(AGENTS)
    mixed = fs.topology.sequence([ring, ring, columns])
    for make in (fs.DSGD, fs.QSADDLe, fs.GradientTracking):
        with pytest.raises(ValueError, match=r"is column-stochastic: push_sum=True keeps the mean"):
            make(z, topology=columns)
        with pytest.raises(
            ValueError, match=r"that of round 2 of Schedule\(sequence.* is column-sto"
        ):
            make(z, topology=mixed)
        with pytest.raises(ValueError, match=r"row-stochastic: gossip along it moves the mean"):
            make(z, topology=by_rows)
    with pytest.raises(
        ValueError, match=r"DSGD needs a column-stochastic mixing matrix, .* row-stoc"
    ):
        fs.DSGD(z, topology=by_rows, push_sum=True)
    rules = (
        fs.rules.GradientTracking(),
        fs.rules.D2(),
        fs.rules.AdaptedMomentum(),
        fs.rules.QGAdam(),
        fs.rules.Torch(lambda p: torch.optim.SGD(p, lr=0.1)),
        fs.rules.PushPull(),
    )
    for rule in rules:
        with pytest.raises(
            ValueError, match=r"push_sum=True is for rules that adapt, then combine"
        ):
            fs.Optimizer(z, rule=rule, communicator=fs.comm.Gossip(ring, push_sum=True))
    with pytest.raises(ValueError, match="push_sum=True sends rows whole, got compressor Stoch"):
        fs.DSGD(z, topology=columns, push_sum=True, compressor=StochasticQuantizer(8))
    fs.DSGD(z, topology=columns, push_sum=True, compressor=Identity())
    given_away = torch.tensor([[0.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])
    ring = fs.topology.directed_ring(3)
    empty = fs.topology.sequence([ring, directed(given_away)])
    with pytest.raises(ValueError, match=r"but row 0 of that of round 1 of Schedule\(.* is zero"):
        fs.QGM([torch.nn.Parameter(torch.randn(3, 3))], topology=empty, push_sum=True)
    fs.QGM(
        [torch.nn.Parameter(torch.randn(3, 3))], topology=empty, push_sum=True, consensus_step=0.5
    )
