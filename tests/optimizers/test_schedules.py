"""Every method on graphs that change, against its float64 oracle with the W of each gossip, and what it counts."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import fastsaddle as fs
from tests.comm.test_choco import Own
from tests.optimizers import combination_oracles as oracles
from tests.optimizers import tracking_oracles as tracking
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    RATE,
    AgentLosses,
    advance,
    close,
    rows,
    train,
)
from tests.optimizers.combination_oracles import Copies, LocalSteps, Taken, tensorwise
from tests.optimizers.cross_gradient_oracles import CrossGradients

pytestmark = pytest.mark.usefixtures("one_thread")
BACKENDS = ("reference", "native")
OWN = Own()
Matrices = Callable[[int], torch.Tensor]
EYE = torch.eye(6, dtype=torch.float64)
# doubly stochastic, no two weights of a row alike
UNEVEN = (0.5 * EYE + 0.3 * EYE.roll(1, 0) + 0.2 * EYE.roll(2, 0)) @ (0.9 * EYE + 0.1 * EYE.flip(0))


def one_peer(t: int) -> torch.Tensor:
    """Written out: who hears whom among six agents, 1, 2 and 4 places on."""
    W = EYE / 2
    for i in range(6):
        W = W.clone()
        W[i, (i - 2 ** (t % 3)) % 6] += 0.5
    return W


SCHEDULES: dict[str, tuple[fs.Schedule, Matrices | None]] = {
    "one-peer": (fs.topology.one_peer_exponential(6), one_peer),
    "pairs": (fs.topology.one_peer_exponential(6, directed=False), None),
    "base": (fs.topology.base_graph(5, 2), None),
    "uneven": (
        fs.topology.sequence(
            [
                fs.topology.star(6),
                fs.topology.from_matrix(UNEVEN, directed=True),
                fs.topology.from_matrix(EYE, allow_disconnected=True),
                fs.topology.chain(6),
            ]
        ),
        None,
    ),
    "matchings": (fs.topology.matchings(5, 3), None),
    "matcha": (fs.topology.matcha(fs.topology.torus(2, 3), 0.5, 1), None),
    "equi-dyn": (fs.topology.equi_dyn(5, 2), None),
}
SYMMETRIC = "pairs", "base", "matchings", "matcha"


class Turning(Copies):
    """Copies of one kind of row, mixed by the next W at each call."""

    def __init__(self, matrices: Matrices, *args: Any) -> None:
        super().__init__(matrices(0), *args)
        self.matrices, self.calls = matrices, 0

    def __call__(self, r: torch.Tensor) -> torch.Tensor:
        self.W, self.calls = self.matrices(self.calls), self.calls + 1
        return super().__call__(r)


@dataclass(frozen=True)
class Case:
    """A method, and what follows it: an oracle whose attributes `mixes` mix rows, or whose W is set at each step."""

    method: Callable[..., Any]
    oracle: type[Any]
    options: dict[str, Any] = field(default_factory=dict)
    # of the oracle's constructor, and attributes of it
    own: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    mixes: tuple[str, ...] = ()
    gamma: float = 1.0
    rho: float | None = None
    rate: float = RATE
    Q: Any = None
    then_compress: bool = False
    symmetric: bool = False
    # vectors sent to each neighbor in a step
    sent: int = 1


def composed(rule: Callable[[], Any], **options: Any) -> Callable[..., Any]:
    def build(parameters: Any, *, topology: fs.Schedule, **more: Any) -> Any:
        gossip = fs.comm.Gossip(topology, **options)
        return fs.Optimizer(parameters, rule=rule(), communicator=gossip, **more)

    return build


R = fs.rules
CASES = {
    "dsgd": Case(fs.DSGD, LocalSteps, mixes=("first",)),
    "dsgdm": Case(
        fs.DSGDm,
        LocalSteps,
        {"momentum": 0.8, "nesterov": True, "consensus_step": 0.7},
        {"momentum": 0.8, "nesterov": True},
        mixes=("first",),
        gamma=0.7,
    ),
    "qgm": Case(fs.QGM, LocalSteps, {"momentum": 0.9}, {"momentum": 0.9}, {"qg": 0.9}, ("first",)),
    "dsaddle": Case(fs.DSADDLe, LocalSteps, {"rho": 0.1}, mixes=("first",), rho=0.1),
    "qsaddle": Case(
        fs.QSADDLe,
        LocalSteps,
        {"rho": 0.1, "momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "nesterov": True},
        {"qg": 0.9},
        ("first",),
        rho=0.1,
    ),
    "gt": Case(
        fs.GradientTracking,
        oracles.GradientTracking,
        {"momentum": 0.5},
        {"momentum": 0.5},
        mixes=("first", "second"),
        sent=2,
    ),
    "mt": Case(
        fs.MomentumTracking,
        oracles.MomentumTracking,
        {"momentum": 0.8},
        {"momentum": 0.8},
        mixes=("first", "second"),
        sent=2,
    ),
    "d2": Case(
        fs.D2,
        oracles.D2,
        {"consensus_step": 0.5},
        mixes=("first",),
        gamma=0.5,
        symmetric=True,
    ),
    "adam": Case(
        fs.QGAdam, oracles.QGAdam, {"eps": 1e-3}, {}, {"eps": 1e-3}, ("first",), rate=0.01
    ),
    "gut": Case(
        fs.GUT,
        tracking.GUT,
        {"tracking": 0.06, "momentum": 0.9},
        {"momentum": 0.9},
        {"tracking": 0.06},
    ),
    "ngm": Case(fs.NGM, CrossGradients, {"consensus_step": 0.7}, symmetric=True, sent=2),
    "nsaddle": Case(
        fs.NSADDLe,
        CrossGradients,
        {"rho": 0.1, "cross_gradients": "model"},
        symmetric=True,
    ),
    "every": Case(
        composed(R.Momentum, every=3, rounds=2),
        LocalSteps,
        sets={"every": 3, "rounds": 2},
        mixes=("first",),
        sent=2,
    ),
    "dense": Case(composed(R.Momentum, dense=True), LocalSteps, mixes=("first",)),
    "choco": Case(
        fs.QGM,
        LocalSteps,
        {"momentum": 0.9, "compressor": OWN, "consensus_step": 0.6},
        {"momentum": 0.9},
        {"qg": 0.9},
        ("first",),
        gamma=0.6,
        Q=OWN,
    ),
    "gt, choco": Case(
        composed(
            R.GradientTracking,
            compressor=fs.Choco(OWN, order="mix-then-compress"),
            consensus_step=0.5,
        ),
        oracles.GradientTracking,
        mixes=("first", "second"),
        gamma=0.5,
        Q=OWN,
        then_compress=True,
        sent=2,
    ),
}
FEW = ("qgm", "gt", "every", "choco")
PAIRS = [
    *((case, schedule) for case in CASES for schedule in ("one-peer", "base", "matchings")),
    *((case, schedule) for case in FEW for schedule in ("uneven", "matcha", "equi-dyn")),
    *((case, "matcha") for case in ("ngm", "nsaddle", "d2")),
]
PAIRS = [(c, s) for c, s in PAIRS if s in SYMMETRIC or not CASES[c].symmetric]


class Work:
    """One case on one problem."""

    def __init__(self, name: str, schedule: str, seed: int) -> None:
        self.case, (self.schedule, own) = CASES[name], SCHEDULES[schedule]
        self.matrices: Matrices = own or (lambda t: self.schedule.at(t).W)
        self.world = AgentLosses(self.schedule.agents, seed)

    def made(self, backend: str) -> tuple[Any, list[torch.Tensor]]:
        parameters = self.world.parameters()
        options = {"lr": self.case.rate, "weight_decay": DECAY, **self.case.options}
        with warnings.catch_warnings():
            # of what a compressor gives up of the schedule's saving
            warnings.simplefilter("ignore", RuntimeWarning)
            optimizer = self.case.method(
                parameters, topology=self.schedule, backend=backend, **options
            )
        return optimizer, parameters

    def oracle(self) -> Any:
        case, start = self.case, rows(self.world.start)
        eta, decay = (torch.full((DIM,), number).double() for number in (case.rate, DECAY))
        first = self.matrices(0)
        taken = Taken(self.world, rho=case.rho)
        if case.oracle is CrossGradients:
            gradient = self.world.gradient
            made: Any = CrossGradients(start, first, gradient, eta, decay, **case.options)
        else:
            made = case.oracle(start, first, taken, eta, decay, **case.own)
            made.g = lambda x: taken.all(x) + made.decay * x
        for name in case.mixes:
            Q = None if case.Q is None else tensorwise(case.Q.of)
            setattr(made, name, Turning(self.matrices, case.gamma, Q, case.then_compress))
        for name, value in case.sets.items():
            setattr(made, name, value)
        return made if case.mixes else _Stepped(made, self.matrices)


class _Stepped:
    """An oracle whose W is that of the step."""

    def __init__(self, made: Any, matrices: Matrices) -> None:
        self.made, self.matrices, self.steps = made, matrices, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "eta":
            self.made.eta = value
        else:
            super().__setattr__(name, value)

    def step(self) -> None:
        self.made.W, self.steps = self.matrices(self.steps), self.steps + 1
        self.made.step()


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_twenty_steps_with_a_drop(name: str, schedule: str, seed: int) -> None:
    for attempt in range(30):
        work = Work(name, schedule, seed + attempt)
        oracle, rounded = work.oracle(), work.oracle()
        advance(oracle, work.world)
        if name == "adam":
            # near a gradient of zero float32 cannot follow float64
            advance(rounded, work.world, torch.Generator().manual_seed(seed))
            if (oracle.x - rounded.x).abs().max() > 2e-6:
                continue
        assert (oracle.x - rows(work.world.start)).abs().max() > 0.05
        for backend in BACKENDS:
            optimizer, parameters = work.made(backend)
            train(optimizer, work.world, parameters)
            close(rows(parameters), oracle.x)
        return
    raise AssertionError("thirty problems in a row are ill-conditioned")


def run(work: Work, optimizer: Any, parameters: list[torch.Tensor], steps: range) -> None:
    for work.world.now in steps:
        optimizer.step(work.world.closure(optimizer, parameters))


@pytest.mark.parametrize("schedule", ["one-peer", "base", "uneven", "matchings", "matcha"])
@pytest.mark.parametrize("name", ["dsgd", "gt", "every", "ngm"])
def test_bytes_are_those_of_the_rounds(name: str, schedule: str, seed: int) -> None:
    if CASES[name].symmetric and schedule not in SYMMETRIC:
        schedule = "pairs"
    work = Work(name, schedule, seed)
    optimizer, parameters = work.made("native")
    expected = gossips = 0
    # two vectors in a gossip, or two gossips of one
    vectors = 1 if name == "every" else work.case.sent
    for step in range(7):
        run(work, optimizer, parameters, range(step, step + 1))
        for _ in range(1 if name != "every" else 2 * (step % 3 == 2)):
            links = (work.matrices(gossips) > 0).fill_diagonal_(False)
            expected += 4 * DIM * vectors * int(links.sum())
            gossips += 1
        assert optimizer.bytes_sent == expected


def test_compressed_messages_go_to_the_neighbors_of_any_round(seed: int) -> None:
    eight = fs.compressors.StochasticQuantizer(8)
    schedule = fs.topology.one_peer_exponential(8)
    world = AgentLosses(8, seed)
    said = "neighbors of any round of one-peer-exponential, 24 in each gossip, where 8 models would"
    both = []
    for backend in BACKENDS:
        parameters = world.parameters()
        with pytest.warns(RuntimeWarning, match=said) as caught:
            optimizer = fs.QGM(
                parameters, lr=RATE, topology=schedule, compressor=eight, backend=backend
            )
        assert caught[0].filename == __file__
        train(optimizer, world, parameters)
        message = eight.message_bytes(optimizer.layouts[0])
        assert optimizer.bytes_sent == 20 * 24 * message
        both.append(rows(parameters))
    # one kernel, or one after the other
    assert torch.equal(*both)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # nothing is given up where each round has all neighbors
        graphs = [fs.topology.ring(8), fs.topology.ring(8)]
        fs.QGM(world.parameters(), lr=RATE, topology=fs.topology.sequence(graphs), compressor=eight)


@pytest.mark.parametrize("schedule", ["one-peer", "base", "matchings"])
@pytest.mark.parametrize("name", ["qsaddle", "gt", "ngm", "every", "choco"])
def test_resumed_in_the_middle_of_a_period(name: str, schedule: str, seed: int) -> None:
    if CASES[name].symmetric and schedule not in SYMMETRIC:
        schedule = "pairs"
    work = Work(name, schedule, seed)
    whole, parameters = work.made("native")
    run(work, whole, parameters, range(11))
    first, begun = work.made("native")
    run(work, first, begun, range(4))
    saved = first.state_dict()
    after, resumed = work.made("native")
    with torch.no_grad():
        for p, q in zip(resumed, begun, strict=True):
            p.copy_(q)
    after.load_state_dict(saved)
    run(work, after, resumed, range(4, 11))
    assert all(torch.equal(p, q) for p, q in zip(parameters, resumed, strict=True))


class Rotating:
    """A schedule of one's own, and no more than the protocol asks for."""

    def __init__(self, graphs: list[fs.Topology], period: int | None) -> None:
        self.graphs, self.period = graphs, period
        self.agents, self.name = graphs[0].agents, "rotating"
        self.union = fs.Topology("union", sum(graph.W for graph in graphs) / len(graphs))

    def at(self, round: int) -> fs.Topology:
        return self.graphs[round % len(self.graphs)]


@pytest.mark.parametrize("period", [2, None])
def test_a_schedule_of_ones_own(period: int | None, seed: int) -> None:
    graphs = [fs.topology.ring(5), fs.topology.star(5)]
    own, world = Rotating(graphs, period), AgentLosses(5, seed)
    assert isinstance(own, fs.Schedule)
    found = []
    for schedule in (own, fs.topology.sequence(graphs)):
        parameters = world.parameters()
        optimizer = fs.QSADDLe(parameters, lr=RATE, topology=schedule)
        train(optimizer, world, parameters)
        found.append((rows(parameters), optimizer.bytes_sent))
        assert (optimizer.communicator.decides_on_host is None) == (schedule.period is not None)
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_a_round_with_more_neighbors_than_were_said(seed: int) -> None:
    own, world = Rotating([fs.topology.ring(5), fs.topology.star(5)], None), AgentLosses(5, seed)
    own.most_neighbors = 2
    parameters = world.parameters()
    optimizer = fs.DSGD(parameters, lr=RATE, topology=own)
    optimizer.step(world.closure(optimizer, parameters))
    before = rows(parameters)
    with pytest.raises(ValueError, match="has 2 neighbors in a round at most, as it says, got 4"):
        optimizer.step(world.closure(optimizer, parameters))
    assert torch.equal(rows(parameters), before) and int(optimizer.rounds) == 1


def test_a_period_with_more_neighbors_than_it_says_is_refused() -> None:
    class Wrong:
        agents, name, period, most_neighbors = 4, "wrong", 1, 1
        union = fs.topology.ring(4)

        def at(self, round: int) -> fs.Topology:
            return self.union

    z = [torch.nn.Parameter(torch.randn(4, 3))]
    with pytest.raises(ValueError, match="has 1 neighbors in a round at most, as it says, got 2"):
        fs.DSGD(z, lr=0.1, topology=Wrong())


def test_texts_and_one_optimizer_after_the_other(seed: int) -> None:
    """A schedule serves several optimizers, each from its own first gossip on."""
    world, schedule = AgentLosses(5, seed), fs.topology.matchings(5, 7)
    found = []
    for topology in (schedule, "matchings:7", schedule):
        parameters = world.parameters()
        train(fs.DSGD(parameters, lr=RATE, topology=topology), world, parameters)
        found.append(rows(parameters))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def refusal(method: Any, topology: Any, **options: Any) -> str:
    parameter = torch.nn.Parameter(torch.randn(6, 3))
    with pytest.raises(ValueError) as caught:
        method([parameter], lr=0.1, topology=topology, **options)
    return str(caught.value)


def test_refused_by_name() -> None:
    one, pairs = SCHEDULES["one-peer"][0], SCHEDULES["pairs"][0]
    drawn = fs.topology.matchings(6, 1)
    for method in (fs.NGM, fs.NSADDLe, fs.D2):
        name = method.__name__
        assert f"{name} needs a symmetric mixing matrix, that of round 0 of" in refusal(method, one)
        ring = fs.topology.directed_ring(6)
        assert f"{name} needs a symmetric mixing matrix, Topology(directed-ring" in refusal(
            method, ring
        )
    for schedule in (one, pairs, drawn):
        assert "RelaySGD needs a tree that stays, got Schedule(" in refusal(fs.RelaySGD, schedule)
    assert "D2 gives back in each step what gossip moved" in refusal(fs.D2, pairs)
    for schedule in (pairs, drawn):
        said = refusal(fs.NGM, schedule, compressor=fs.compressors.StochasticQuantizer(8))
        assert "with a compressor it needs a graph that stays, got Schedule(" in said
    choco = fs.Choco(fs.compressors.StochasticQuantizer(8), running_sum=True)
    assert "running_sum keeps sums of a W that does not change" in refusal(
        fs.QGM, one, compressor=choco
    )
    W = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    skewed = fs.topology.from_matrix(W, directed=True, allow_disconnected=True)
    late = fs.topology.sequence([fs.topology.ring(3)] * 4 + [skewed])
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    for method in (fs.DSGD, fs.GradientTracking, fs.QGAdam, fs.GUT):
        with pytest.raises(ValueError, match=r"that of round 4 of .*sequence.* is row-stochastic"):
            method([parameter], lr=0.1, topology=late)
    assert "has 8 agents, but 6 are needed" in refusal(fs.DSGD, fs.topology.matchings(8))


def test_d2_is_told_by_the_rounds_one_after_the_other(seed: int) -> None:
    """On pairs all eigenvalues are 0 or 1, and yet differences grow; half of W lets them die out."""
    world, sizes = AgentLosses(6, seed), []
    for gamma in (1.0, 0.5):
        x, before = torch.randn(6, 4, dtype=torch.float64), torch.zeros(6, 4, dtype=torch.float64)
        for t in range(150):
            W = (1 - gamma) * EYE + gamma * SCHEDULES["pairs"][0].at(t).W
            x, before = W @ (2 * x - before), x
        sizes.append(float((x - x.mean(0)).norm()))
    assert sizes[0] > 1e3 and sizes[1] < 0.1
    fs.D2(world.parameters(), lr=0.1, topology=SCHEDULES["pairs"][0], consensus_step=0.5)
