"""Gradient x rule x communicator: combinations that no named optimizer has, against float64 oracles, and refusals."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Identity, StochasticQuantizer, TopK
from tests.comm.test_choco import Own
from tests.optimizers import combination_oracles as compressed
from tests.optimizers import local_sgd_oracles as meeting
from tests.optimizers import tracking_oracles as tracking
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    GRAPHS,
    RATE,
    AgentLosses,
    advance,
    close,
    groups,
    rows,
    train,
)
from tests.optimizers.combination_oracles import (
    Adapted,
    AveragedAdam,
    Copies,
    LocalGossip,
    LocalSteps,
    Taken,
    tensorwise,
)

pytestmark = pytest.mark.usefixtures("one_thread")
BACKENDS = ("reference", "native")
OWN, GAMMA = Own(), 0.6
SAM = fs.gradients.SAM
SAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sam": {"rho": 0.1},
    "adaptive": {"rho": 0.5, "adaptive": True},
    "look": {"rho": 0.3, "sam": fs.LookSAM(period=3, strength=0.7)},
    "esam": {"rho": 0.1, "sam": fs.ESAM(weights=0.6)},
    "momentum": {"rho": 0.4, "sam": fs.MomentumSAM()},
}


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, weight_decay=DECAY, eps=1e-3)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, momentum=0.8, nesterov=True, weight_decay=DECAY)


@dataclass(frozen=True)
class Case:
    """A rule and a communicator, and what follows them.

    Attributes:
        oracle: its class; `options` go to its constructor, `sets` are attributes of it.
        buffer: its attribute that MomentumSAM perturbs along.
        mixes: names of its attributes that mix a row, with copies of their own where Q compresses.
    """

    rule: Callable[[], fs.rules.Rule]
    oracle: type[Any]
    options: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    communicator: Callable[[Any], Any] = fs.comm.Gossip
    rate: float = RATE
    maximize: bool = False
    buffer: str = "m"
    mixes: tuple[str, ...] = ()
    gamma: float = 1.0
    Q: Any = None
    then_compress: bool = False
    wrap: Callable[[fs.gradients.Gradient], fs.gradients.Gradient] = lambda gradient: gradient

    @property
    def decays_itself(self) -> bool:
        return self.options.get("local") is not None


class Work:
    """A case on one problem: optimizers of it on several backends, and oracles."""

    def __init__(self, case: Case, sam: str, graph: str, seed: int, grouped: bool = False) -> None:
        self.case, self.grouped, self.seed = case, grouped, seed
        if isinstance(case.rule(), fs.rules.Relay):
            graph = {"ring": "path", "kite": "broom"}[graph]
        self.topology, self.W, _ = GRAPHS[graph]
        self.world = AgentLosses(self.topology.agents, seed, sign=-1.0 if case.maximize else 1.0)
        self.sharp = SAMS[sam]
        self.eta = torch.full((DIM,), case.rate).double()
        self.decay = torch.full((DIM,), 0.0 if case.decays_itself else DECAY).double()
        self.rho: Any = self.sharp.get("rho")

    def made(self, backend: str, **more: Any) -> tuple[Any, list[torch.Tensor]]:
        parameters = self.world.parameters()
        given: list[Any] = parameters
        if self.grouped:
            other = {"rho": 2 * self.sharp["rho"]} if self.sharp else {}
            given, self.eta, self.decay = groups(parameters, **other)
            if self.sharp:
                self.rho = torch.where(self.eta == 0.03, 2.0, 1.0) * self.sharp["rho"]
        inner = SAM(**self.sharp) if self.sharp else fs.gradients.Plain()
        options = {
            "lr": RATE if self.grouped else self.case.rate,
            "gradient": self.case.wrap(inner),
            "rule": self.case.rule(),
            "communicator": self.case.communicator(self.topology),
            "weight_decay": 0.0 if self.case.decays_itself else DECAY,
            "maximize": self.case.maximize,
            "seed": self.seed,
        }
        optimizer = fs.Optimizer(given, backend=backend, **{**options, **more})
        return optimizer, parameters

    def oracle(self) -> Any:
        case, start = self.case, rows(self.world.start)
        numbered = (0, 2, 4, 1, 3) if self.grouped else (0, 1, 2, 3, 4)
        options = {**self.sharp, "rho": self.rho, "seed": self.seed, "order": numbered}
        taken = Taken(self.world, sign=self.world.sign, **options)
        options = {**case.options, "maximize": case.maximize}
        if issubclass(case.oracle, meeting.LocalSGD):
            made = case.oracle(start, taken, self.eta, self.decay, **options)
            made.W = self.W
        else:
            # all agents at once, for speed
            made = case.oracle(start, self.W, taken, self.eta, self.decay, **options)
            made.g = lambda x: made.sign * taken.all(x) + made.decay * x
        for name in case.mixes:
            Q = None if case.Q is None else tensorwise(case.Q.of)
            setattr(made, name, Copies(self.W, case.gamma, Q, case.then_compress))
        for name, value in case.sets.items():
            setattr(made, name, value)
        taken.buffers = lambda: getattr(made, case.buffer)
        return made


def follow(build: Callable[[int], Work], seed: int) -> None:
    """Both backends on the first problem that carries roundings no further than 2e-6."""
    noise = torch.Generator().manual_seed(seed)
    for attempt in range(30):
        work = build(seed + attempt)
        made = [work.made(backend) for backend in BACKENDS]
        oracle, rounded = work.oracle(), work.oracle()
        advance(oracle, work.world)
        advance(rounded, work.world, noise)
        if not (oracle.x - rounded.x).abs().max() <= 2e-6:
            continue
        assert (oracle.x - rows(work.world.start)).abs().max() > 0.05
        for optimizer, parameters in made:
            train(optimizer, work.world, parameters)
            close(rows(parameters), oracle.x)
        return
    raise AssertionError("thirty problems in a row are ill-conditioned")


# -- SAM with every rule

NESTEROV: dict[str, Any] = {"momentum": 0.8, "nesterov": True}
R, average = fs.rules, fs.comm.Average
ALONG = {
    "d2": Case(R.D2, tracking.D2),
    "d2-nesterov": Case(lambda: R.D2(0.8, True), tracking.D2, NESTEROV),
    "d2-maximize": Case(lambda: R.D2(0.5), tracking.D2, {"momentum": 0.5}, maximize=True),
    "gt": Case(R.GradientTracking, tracking.GradientTracking),
    "gt-nesterov": Case(
        lambda: R.GradientTracking(0.8, True), tracking.GradientTracking, NESTEROV
    ),
    "mt": Case(lambda: R.MomentumTracking(0.8), tracking.MomentumTracking, {"momentum": 0.8}, buffer="u"),
    "adam": Case(lambda: R.QGAdam(eps=1e-3), tracking.QGAdam, sets={"eps": 1e-3}, rate=0.01, buffer="mh"),
    "adam-both": Case(
        lambda: R.QGAdam(eps=1e-3, quasi_global="both"),
        tracking.QGAdam,
        sets={"eps": 1e-3, "both": True},
        rate=0.01,
        buffer="mh",
    ),
    "relay": Case(R.Relay, tracking.RelaySGD),
    "relay-nesterov": Case(lambda: R.Relay(0.8, True), tracking.RelaySGD, NESTEROV),
    "gut": Case(R.GUT, tracking.GUT, sets={"tracking": 0.9}, wrap=fs.gradients.Mixed),
    "gut-nesterov": Case(
        lambda: R.GUT(0.08, 0.8, True),
        tracking.GUT,
        NESTEROV,
        {"tracking": 0.08},
        wrap=fs.gradients.Mixed,
    ),
    "adapted": Case(
        lambda: R.AdaptedMomentum("local", 0.8), Adapted, {"momentum": 0.8}, mixes=("first",)
    ),
    "adapted-qg": Case(
        lambda: R.AdaptedMomentum("quasi-global", 0.8, 0.9, nesterov=True),
        Adapted,
        NESTEROV,
        {"qg": 0.9},
        mixes=("first",),
    ),
}  # fmt: skip
# agents that meet
MEETING = {
    "local": Case(
        lambda: R.Momentum("local", 0.8), meeting.LocalSGD, {"momentum": 0.8}, communicator=lambda _: average()
    ),
    "dppf": Case(
        lambda: R.Momentum("local", 0.8, nesterov=True),
        meeting.DPPF,
        NESTEROV | {"period": 3, "pull": 0.1, "push": 0.5},
        communicator=lambda _: average(period=3, pull=0.1, push=0.5),
    ),
    "elastic": Case(
        lambda: R.Momentum("local", 0.8),
        meeting.EASGD,
        {"momentum": 0.8, "period": 3, "pull": 0.4},
        communicator=lambda _: fs.comm.Elastic(period=3, pull=0.4),
    ),
    "adapted-average": Case(
        lambda: R.AdaptedMomentum("local", 0.8),
        meeting.LocalSGD,
        {"momentum": 0.8},
        communicator=lambda _: average(),
    ),
    "adam-average": Case(
        lambda: R.QGAdam(eps=1e-3),
        AveragedAdam,
        {"consensus_step": 0.0},
        {"eps": 1e-3},
        communicator=lambda _: average(),
        rate=0.01,
        buffer="mh",
    ),
    "adamw-average": Case(
        lambda: R.Torch(adamw), meeting.LocalSGD, {"local": adamw}, communicator=lambda _: average(), rate=0.01
    ),
    "adamw-dppf": Case(
        lambda: R.Torch(adamw),
        meeting.DPPF,
        {"local": adamw, "pull": 0.1, "push": 0.5},
        communicator=lambda _: average(pull=0.1, push=0.5),
        rate=0.01,
    ),
    "sgd-average": Case(
        lambda: R.Torch(sgd), meeting.LocalSGD, {"local": sgd}, communicator=lambda _: average()
    ),
    "adamw-gossip": Case(
        lambda: R.Torch(adamw), LocalGossip, {"local": adamw, "period": 1}, rate=0.01
    ),
    "sgd-gossip": Case(lambda: R.Torch(sgd), LocalGossip, {"local": sgd, "period": 1}),
}  # fmt: skip
ALL = {**ALONG, **MEETING}
PAIRS = [
    *((rule, "sam") for rule in ALL),
    *((rule, "adaptive") for rule in ("d2-nesterov", "gt", "adam", "gut", "relay", "local")),
    *((rule, "look") for rule in ("d2", "mt", "adam-both", "gut-nesterov", "relay", "dppf", "adamw-gossip")),
    *((rule, "esam") for rule in ("d2-maximize", "gt", "gut", "local", "sgd-average")),
    *((rule, "momentum") for rule in ("d2-nesterov", "gt-nesterov", "mt", "adam", "adam-both")),
    *((rule, "momentum") for rule in ("relay-nesterov", "adapted-qg", "local", "adam-average")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "sam"), PAIRS)
def test_sam_with_every_rule(rule: str, sam: str, seed: int) -> None:
    follow(lambda seed: Work(ALL[rule], sam, "ring", seed), seed)


@pytest.mark.parametrize("sam", ["sam", "esam"])
@pytest.mark.parametrize("rule", ["d2-nesterov", "gt", "mt", "adam", "gut", "relay", "local"])
def test_sam_in_two_groups(rule: str, sam: str, seed: int) -> None:
    """Two radii and rates on an irregular graph; the norm is one over the whole model."""
    follow(lambda seed: Work(ALL[rule], sam, "kite", seed, grouped=True), seed)


# -- compressed rules, each row that is sent with copies of its own


def compresses(case: Case, *mixes: str, oracle: type[Any]) -> Case:
    """The case with gossip that is compressed by `OWN`, and pulls `GAMMA` of the way to the copies."""
    communicator = lambda graph: fs.comm.Gossip(graph, OWN, GAMMA)  # noqa: E731
    return replace(case, oracle=oracle, communicator=communicator, mixes=mixes, gamma=GAMMA, Q=OWN)


TWO = ("first", "second")
COMPRESSED = {
    **{n: compresses(ALL[n], *TWO, oracle=compressed.GradientTracking) for n in ("gt", "gt-nesterov")},
    "mt": compresses(ALL["mt"], *TWO, oracle=compressed.MomentumTracking),
    **{n: compresses(ALL[n], "first", oracle=compressed.D2) for n in ("d2", "d2-nesterov", "d2-maximize")},
    **{n: compresses(ALL[n], "first", oracle=compressed.QGAdam) for n in ("adam", "adam-both")},
    "adapted-qg": compresses(ALL["adapted-qg"], "first", oracle=Adapted),
}  # fmt: skip
SENT = {"gt": 2, "mt": 2, "d2": 1, "adam": 1, "adapted": 1}


@pytest.mark.parametrize("sam", ["plain", "sam"])
@pytest.mark.parametrize("rule", COMPRESSED)
def test_compressed_rules(rule: str, sam: str, seed: int) -> None:
    follow(lambda seed: Work(COMPRESSED[rule], sam, "ring", seed), seed)


@pytest.mark.parametrize("rule", ["gt", "mt", "d2-nesterov", "adam"])
def test_compressed_rules_in_two_groups(rule: str, seed: int) -> None:
    follow(lambda seed: Work(COMPRESSED[rule], "plain", "kite", seed, grouped=True), seed)


@pytest.mark.parametrize("rule", ["gt", "mt", "d2", "adam"])
def test_compressed_after_mixing(rule: str, seed: int) -> None:
    """The copies of the step before are mixed, and then move towards what came of it."""
    choco = fs.Choco(OWN, "mix-then-compress")
    case = replace(
        COMPRESSED[rule],
        communicator=lambda graph: fs.comm.Gossip(graph, choco, GAMMA),
        then_compress=True,
    )
    follow(lambda seed: Work(case, "plain", "ring", seed), seed)


@pytest.mark.parametrize("rule", ["gt", "mt", "d2", "adam", "adapted-qg"])
def test_identity_compresses_nothing(rule: str, seed: int) -> None:
    """Bit for bit, and byte for byte."""
    work = Work(ALL[rule], "plain", "ring", seed)
    plain, identity = (
        work.made("native", communicator=fs.comm.Gossip("ring", compressor, 0.8))
        for compressor in (None, Identity())
    )
    for optimizer, parameters in (plain, identity):
        train(optimizer, work.world, parameters)
    assert all(map(torch.equal, plain[1], identity[1]))
    assert plain[0].bytes_sent == identity[0].bytes_sent
    assert plain[0].flat_state.keys() == identity[0].flat_state.keys()


@pytest.mark.parametrize("rule", ["gt", "mt", "d2", "adam", "adapted-qg"])
def test_running_sums_are_the_sums(rule: str, seed: int) -> None:
    """Weighted sums of the neighbors' copies, kept up to date, or summed anew from the copies."""
    work = Work(ALL[rule], "plain", "kite", seed)
    ends = []
    for running in (False, True):
        choco = fs.Choco(OWN, running_sum=running)
        gossip = fs.comm.Gossip(work.topology, choco, GAMMA)
        optimizer, parameters = work.made("native", communicator=gossip)
        train(optimizer, work.world, parameters, 5)
        ends.append(rows(parameters))
    close(ends[0], ends[1])


@pytest.mark.parametrize("rule", ["gt", "mt", "d2", "adam", "adapted-qg"])
@pytest.mark.parametrize("compressor", [None, TopK(0.3), StochasticQuantizer(8)], ids=str)
def test_bytes_of_compressed_rules(rule: str, compressor: Any, seed: int) -> None:
    """What is sent of each row, to each neighbor, in each step; and copies of each row."""
    work = Work(ALL[rule], "plain", "kite", seed, grouped=True)
    gossip = fs.comm.Gossip(work.topology, compressor, 0.3)
    optimizer, parameters = work.made("native", communicator=gossip)
    train(optimizer, work.world, parameters, 3)
    sizes = ((15, 10, 2), (5, 1))
    each = sum(4 * n if compressor is None else compressor.wire_bytes(n) for g in sizes for n in g)
    kind = rule.partition("-")[0]
    assert optimizer.bytes_sent == 3 * work.topology.messages * each * SENT[kind]
    hats = [name for name in optimizer.flat_state if name.endswith("_hat")]
    assert len(hats) == (0 if compressor is None else SENT[kind])


@pytest.mark.parametrize("rule", ["gt", "mt", "adapted-qg"])
def test_copies_are_of_the_rows_that_they_are_named_after(rule: str, seed: int) -> None:
    """Sent whole they are the models of before the step, which these rules mix."""
    work = Work(ALL[rule], "plain", "ring", seed)
    optimizer, parameters = work.made("native", communicator=fs.comm.Gossip("ring", TopK(1.0)))
    train(optimizer, work.world, parameters, 3)
    before = rows(parameters)
    optimizer.step(work.world.closure(optimizer, parameters))
    close(rows([optimizer.state[p]["x_hat"] for p in parameters]), before, 1e-6)
    kept = {"gt": {"x_hat", "tracked_hat"}, "mt": {"x_hat", "correction_hat"}}
    named = {name for name in optimizer.flat_state if name.endswith("_hat")}
    assert named == kept.get(rule, {"x_hat"})


# -- several local steps, several gossips

LOCAL: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "none": (R.Momentum, {}, {}),
    "local": (lambda: R.Momentum("local", 0.8, nesterov=True), NESTEROV, {}),
    "qg": (lambda: R.Momentum("quasi-global", 0.8, 0.9), {"momentum": 0.8}, {"qg": 0.9}),
    "adapted": (lambda: R.AdaptedMomentum("local", 0.8), {"momentum": 0.8}, {}),
}


def seldom(kind: str, every: int, rounds: int, compressor: Any) -> Case:
    rule, options, sets = LOCAL[kind]
    gamma = 1.0 if compressor is None else GAMMA
    return Case(
        rule,
        Adapted if kind == "adapted" else LocalSteps,
        options,
        {**sets, "every": every, "rounds": rounds},
        lambda graph: fs.comm.Gossip(graph, compressor, gamma, every, rounds),
        mixes=("first",),
        gamma=gamma,
        Q=compressor,
    )


@pytest.mark.parametrize("compressor", [None, OWN], ids=["whole", "compressed"])
@pytest.mark.parametrize(("every", "rounds"), [(3, 1), (1, 2), (4, 3)])
@pytest.mark.parametrize("kind", LOCAL)
def test_seldom_and_often(kind: str, every: int, rounds: int, compressor: Any, seed: int) -> None:
    """With SAM and no momentum it is DFedSAM, with several rounds DFedSAM-MGS."""
    sam = "sam" if kind in ("none", "qg") else "plain"
    case = seldom(kind, every, rounds, compressor)
    follow(lambda seed: Work(case, sam, "ring", seed), seed)


@pytest.mark.parametrize(("every", "rounds"), [(3, 1), (1, 2), (4, 3)])
@pytest.mark.parametrize("local", [adamw, sgd])
def test_seldom_and_often_by_torch(local: Any, every: int, rounds: int, seed: int) -> None:
    case = Case(
        lambda: R.Torch(local),
        LocalGossip,
        {"local": local, "period": every},
        {"rounds": rounds},
        lambda graph: fs.comm.Gossip(graph, None, 1.0, every, rounds),
        rate=0.01,
    )
    follow(lambda seed: Work(case, "sam", "ring", seed), seed)


@pytest.mark.parametrize("compressor", [None, TopK(0.3), StochasticQuantizer(8)], ids=str)
def test_bytes_of_seldom_and_often(compressor: Any, seed: int) -> None:
    case = seldom("qg", 3, 2, compressor)
    work = Work(case, "plain", "ring", seed)
    optimizer, parameters = work.made("native")
    each = sum(4 * n if compressor is None else compressor.wire_bytes(n) for n in (15, 5, 10, 1, 2))
    sent = []
    for work.world.now in range(7):
        optimizer.step(work.world.closure(optimizer, parameters))
        sent.append(optimizer.bytes_sent)
    gossip = 2 * work.topology.messages * each
    assert sent == [0, 0, gossip, gossip, gossip, 2 * gossip, 2 * gossip]


def test_adaptive_steps_count_gossips(seed: int) -> None:
    """AdaGossip's running mean began at zero as many gossips ago as there were, not as many steps."""
    draw = torch.Generator().manual_seed(seed)
    start, ends = torch.randn(5, 8, generator=draw), []
    for every in (1, 4):
        p = torch.nn.Parameter(start.clone())
        choco = fs.Choco(OWN, adaptive=True)
        gossip = fs.comm.Gossip("ring", choco, 0.3, every)
        optimizer = fs.Optimizer([p], lr=0.0, communicator=gossip)
        for _ in range(3 * every):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        ends.append(p.detach().clone())
    assert torch.equal(*ends)


# -- what is refused, and what is not

G, gossip = fs.gradients, fs.comm.Gossip
TOP = TopK(0.5)
MOMENTUM_SAM = SAM(sam=fs.MomentumSAM())
TRACKING = (R.GradientTracking, R.MomentumTracking, R.D2, R.Relay, R.GUT)
ONE_WAY = fs.Topology("one way", (torch.eye(4).roll(1, 1) + torch.eye(4)).double() / 2)
ROWS = fs.Topology("rows alone", (torch.eye(4).double() + torch.eye(4)[[1, 2, 3, 2]]) / 2)
PAIR = fs.topology.from_matrix([[0.2, 0.8], [0.8, 0.2]])
CHAIN = fs.topology.chain(4)


def parts(rule: Any, **others: Any) -> dict[str, Any]:
    """Of an optimizer on a chain; GUT gets its gradient."""
    made = rule() if callable(rule) else rule
    wanted = {"gradient": G.Mixed()} if isinstance(made, R.GUT) else {}
    return {"rule": made, "communicator": gossip(CHAIN), **wanted, **others}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"average, {rule.__name__}": (parts(rule, communicator=average()), f"{rule.__name__}.*Average")
        for rule in TRACKING
    },
    **{
        f"compressor, {rule.name}": (
            parts(rule, communicator=gossip(CHAIN, TOP)), f"{rule.name} takes no compressor"
        )
        for rule in (R.Relay(), R.GUT(), R.Torch(sgd))
    },
    **{
        f"every {every} rounds {rounds}, {rule.__name__}": (
            parts(rule, communicator=gossip(CHAIN, every=every, rounds=rounds)),
            f"{rule.__name__} needs Gossip with every=1 and rounds=1",
        )
        for rule in (*TRACKING, R.QGAdam)
        for every, rounds in ((2, 1), (1, 2))
    },
    **{
        f"momentum, {rule!r}": (parts(rule, gradient=MOMENTUM_SAM), f"MomentumSAM needs .*{rule.name}")
        for rule in (
            R.Momentum(), R.AdaptedMomentum("none"), R.GradientTracking(), R.MomentumTracking(0.0), R.D2(), R.Relay(),
            R.Torch(sgd),
        )
    },
    "momentum, GUT": (
        parts(R.GUT(momentum=0.5), gradient=G.Mixed(MOMENTUM_SAM)), "MomentumSAM .*GUT"
    ),
    **{
        f"cross, {rule.name}": (
            parts(rule, gradient=G.Cross()), f"cross-gradients need .*AdaptedMomentum, {rule.name}"
        )
        for rule in (R.Momentum("local"), R.D2(), R.QGAdam(), R.Torch(sgd))
    },
    "cross, GUT": (parts(R.GUT, gradient=G.Cross()), "GUT needs .*Mixed.*got Cross"),
    "cross, every": (
        parts(R.AdaptedMomentum, gradient=G.Cross(), communicator=gossip(CHAIN, every=2)),
        "cross-gradients need Gossip with every=1",
    ),
    "cross, average": (
        parts(R.AdaptedMomentum, gradient=G.Cross(), communicator=average()), "cross-gradients need Gossip"
    ),
    **{
        f"mixed, {rule.name}": (parts(rule, gradient=G.Mixed()), f"{rule.name} .*mixed models.* GUT")
        for rule in (R.Momentum(), R.AdaptedMomentum(), R.D2(), R.QGAdam(), R.Relay(), R.Torch(sgd))
    },
    **{
        f"{type(gradient).__name__}, GUT": (
            parts(R.GUT, gradient=gradient), f"GUT needs .*Mixed.*got {type(gradient).__name__}"
        )
        for gradient in (G.Plain(), SAM())
    },
    **{
        f"bfloat16, {rule.name}": (
            parts(rule, state_dtype=torch.bfloat16), f"state_dtype must be torch.float32 for {rule.name}"
        )
        for rule in (*(rule() for rule in TRACKING), R.AdaptedMomentum(), R.QGAdam(), R.Torch(sgd))
    },
    "bfloat16, MomentumSAM": (
        parts(R.Momentum("local"), gradient=MOMENTUM_SAM, state_dtype=torch.bfloat16),
        "MomentumSAM needs state_dtype torch.float32",
    ),
    "bfloat16, TopK": (
        parts(R.Momentum("local"), communicator=gossip(CHAIN, TOP), state_dtype=torch.bfloat16),
        "bfloat16 need an unbiased StochasticQuantizer.*TopK",
    ),
    **{
        f"one way, {rule.name}": (
            parts(rule, communicator=gossip(ONE_WAY)), f"{rule.name} needs a symmetric mixing matrix"
        )
        for rule in (R.AdaptedMomentum(), R.D2(), R.Relay())
    },
    **{
        f"rows alone, {rule.name}": (
            parts(rule, communicator=gossip(ROWS)),
            f"{rule.name} needs a (symmetric|doubly stochastic) mixing matrix, .* is row-stochastic",
        )
        for rule in (R.Momentum(), R.AdaptedMomentum(), R.QGAdam(), *(rule() for rule in TRACKING), R.Torch(sgd))
    },
    "sums alone": (
        parts(R.Momentum, communicator=gossip(fs.Topology("sums alone", ROWS.W.T))),
        "Momentum needs a doubly stochastic mixing matrix, .* is column-stochastic",
    ),
    "no tree": (parts(R.Relay, communicator=gossip("ring")), "Relay needs a tree"),
    "eigenvalue": (parts(R.D2, communicator=gossip(PAIR)), "D2 needs .*eigenvalues are above -1/3.*0.5"),
    "eigenvalue, compressed": (
        parts(R.D2, communicator=gossip(PAIR, TOP)), "D2 needs .*eigenvalues are above -1/3"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_combined(case: str) -> None:
    """Refused at once, by both names, with the parameters as they were."""
    options, reason = REFUSED[case]
    p = torch.nn.Parameter(torch.randn(2 if case.startswith("eigenvalue") else 4, 3))
    before, where = p.detach().clone(), p.data_ptr()
    with pytest.raises(ValueError, match=reason):
        fs.Optimizer([p], **options)
    assert torch.equal(p, before) and p.data_ptr() == where


@pytest.mark.parametrize("of", [G.Cross(), G.Mixed(), "plain"], ids=["cross", "mixed", "word"])
def test_gradients_at_other_models_do_not_nest(of: Any) -> None:
    for kind in (G.Mixed, lambda of: G.Cross(of=of)):
        with pytest.raises(ValueError, match="of must be a gradient at one model"):
            kind(of)


SHARP = {
    "plain": G.Plain(),
    "sam": SAM(0.1),
    "adaptive": SAM(0.1, adaptive=True),
    "look": SAM(0.1, sam=fs.LookSAM(2)),
    "esam": SAM(0.1, sam=fs.ESAM()),
    "momentum": MOMENTUM_SAM,
}
HEARS: dict[str, Any] = {
    "gossip": gossip(CHAIN),
    "top-k": gossip(CHAIN, TOP, 0.3),
    "quantized": gossip(CHAIN, StochasticQuantizer(8), 0.5),
    "average": average(),
    "seldom": gossip(CHAIN, every=2, rounds=2),
    "seldom quantized": gossip(CHAIN, StochasticQuantizer(8), 0.5, every=2, rounds=2),
}
EVERY = ("gossip", "top-k", "quantized", "average", "seldom", "seldom quantized")
ONCE = ("gossip", "top-k", "quantized")
# what the table says yes to: the communicators, and whether there is momentum to ascend along
TABLE: dict[str, tuple[Callable[[], fs.rules.Rule], tuple[str, ...], bool]] = {
    "none": (R.Momentum, EVERY, False),
    "local": (lambda: R.Momentum("local"), EVERY, True),
    "qg": (lambda: R.Momentum("quasi-global"), EVERY, True),
    "adapted": (R.AdaptedMomentum, EVERY, True),
    "adapted qg": (lambda: R.AdaptedMomentum("quasi-global", displacement="mixed"), EVERY, True),
    "gt": (lambda: R.GradientTracking(0.5), ONCE, True),
    "mt": (lambda: R.MomentumTracking(0.5), ONCE, True),
    "d2": (lambda: R.D2(0.5), ONCE, True),
    "adam": (R.QGAdam, (*ONCE, "average"), True),
    "relay": (lambda: R.Relay(0.5), ("gossip",), True),
    "gut": (R.GUT, ("gossip",), False),
    "torch": (lambda: R.Torch(sgd), ("gossip", "average", "seldom"), False),
}


@pytest.mark.parametrize("rule", TABLE)
def test_what_can_be_combined(rule: str, seed: int) -> None:
    """It steps, and the mean model is a better one after five steps."""
    make, hears, ascends = TABLE[rule]
    b = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    for heard in hears:
        for name, sharp in SHARP.items():
            if name == "momentum" and not ascends:
                continue
            p = torch.nn.Parameter(torch.zeros(4, 6))
            gradient = G.Mixed(sharp) if rule == "gut" else sharp
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                # it silences torch's remark on strided gradients, inside this block
                optimizer = fs.Optimizer(
                    [p], 0.04, gradient=gradient, rule=make(), communicator=HEARS[heard]
                )

                def closure(p: Any = p, optimizer: Any = optimizer) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = (p - b).square().sum()
                    loss.backward()
                    return loss

                first = closure().item()
                for _ in range(5):
                    optimizer.step(closure)
            assert (p.detach().mean(0) - b).square().sum() < first, (heard, name)
            assert (optimizer.bytes_sent > 0) and p.isfinite().all()


@pytest.mark.parametrize("kind", ["data", "model"])
@pytest.mark.parametrize("heard", ONCE)
@pytest.mark.parametrize("sharp", SHARP)
def test_cross_gradients_can_be_combined(kind: Any, heard: str, sharp: str) -> None:
    p = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = fs.Optimizer(
        [p],
        gradient=G.Cross(kind, SHARP[sharp]),
        rule=R.AdaptedMomentum(),
        communicator=HEARS[heard],
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert (p.abs() < 1).all()
