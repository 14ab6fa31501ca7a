"""What compositions keep: state loaded in place, copies, and steps that are done whole or not at all."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Sign, StochasticQuantizer, TopK
from tests.optimizers.agent_losses import AgentLosses, train
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot, twins
from tests.optimizers.test_combinations import sgd

pytestmark = pytest.mark.usefixtures("one_thread")
G, R, gossip = fs.gradients, fs.rules, fs.comm.Gossip
LOOK = G.SAM(0.1, sam=fs.LookSAM(3))
ESAM = G.SAM(0.1, sam=fs.ESAM())
QUANTIZER, TOP = StochasticQuantizer(8), TopK(0.4)
COMPOSED: dict[str, Callable[[], dict[str, Any]]] = {
    "sgd": lambda: {"communicator": gossip("ring")},
    "qg": lambda: {
        "gradient": ESAM,
        "rule": R.Momentum("quasi-global"),
        "communicator": gossip("ring", QUANTIZER, 0.5, every=2, rounds=2),
    },
    "bfloat16": lambda: {
        "rule": R.Momentum("local"),
        "communicator": gossip("ring", QUANTIZER),
        "state_dtype": torch.bfloat16,
    },
    "cross": lambda: {
        "gradient": G.Cross(of=LOOK),
        "rule": R.AdaptedMomentum("quasi-global", displacement="mixed"),
        "communicator": gossip("ring", TOP, 0.3),
    },
    "gt": lambda: {
        "gradient": LOOK,
        "rule": R.GradientTracking(0.5),
        "communicator": gossip("ring", fs.Choco(TOP, running_sum=True), 0.3),
    },
    "mt": lambda: {"rule": R.MomentumTracking(0.5), "communicator": gossip("ring", TOP, 0.3)},
    "d2": lambda: {
        "gradient": G.SAM(0.1, sam=fs.MomentumSAM()),
        "rule": R.D2(0.5),
        "communicator": gossip("ring", fs.Choco(TOP, adaptive=True), 0.3),
    },
    "adam": lambda: {
        "gradient": LOOK,
        "rule": R.QGAdam(),
        "communicator": fs.comm.Average(period=3),
    },
    "relay": lambda: {"gradient": ESAM, "rule": R.Relay(0.5), "communicator": gossip("chain")},
    "gut": lambda: {
        "gradient": G.Mixed(LOOK),
        "rule": R.GUT(0.1, 0.5),
        "communicator": gossip("ring"),
    },
    "torch": lambda: {
        "gradient": LOOK,
        "rule": R.Torch(sgd),
        "communicator": gossip("ring", every=2),
    },
    "elastic": lambda: {
        "rule": R.Momentum("local"),
        "communicator": fs.comm.Elastic(period=fs.QSR(2, 0.05), pull=0.3),
    },
}
each = pytest.mark.parametrize("name", COMPOSED)


def made(name: str, seed: int, **more: Any) -> tuple[Any, AgentLosses, list[torch.Tensor]]:
    """Six agents, two groups."""
    world = AgentLosses(6, seed)
    parameters = world.parameters()
    options = {**COMPOSED[name](), **more}
    decay = 0.0 if name == "torch" else 1e-2
    given = [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.01}]
    return fs.Optimizer(given, 0.02, weight_decay=decay, **options), world, parameters


def places(optimizer: Any) -> dict[str, int]:
    tensors = {**optimizer.flat_state, **optimizer.scalar_state, "rounds": optimizer.rounds}
    tensors |= {"x": optimizer.rows.x, "g": optimizer.rows.g}
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


@each
def test_state_is_loaded_where_it_is(name: str, seed: int) -> None:
    """Into the very buffers, as a captured graph knows their addresses; then it goes on bit for bit."""
    optimizer, world, parameters = made(name, seed)
    fresh, _, others = made(name, seed + 1)
    train(optimizer, world, parameters, 5)
    # lists and counters of its own, made by a step
    train(fresh, world, others, 1)
    before = places(fresh)
    reload(optimizer, parameters, fresh, others)
    assert places(fresh) == before
    for p, q in zip(parameters, others, strict=True):
        assert optimizer.state[p].keys() == fresh.state[q].keys()
        for key, value in fresh.state[q].items():
            if key in fresh.flat_state:
                whole = fresh.flat_state[key]
                first, size = whole.data_ptr(), whole.numel() * whole.element_size()
                assert first <= value.data_ptr() <= first + size
    # bytes are no state, and steps are only where something is drawn or counted by them
    fresh.bytes_sent = optimizer.bytes_sent
    assert fresh.counts_rounds == (name not in ("sgd", "elastic"))
    if not fresh.counts_rounds:
        fresh.rounds.copy_(optimizer.rounds)
    for used, theirs in ((optimizer, parameters), (fresh, others)):
        train(used, world, theirs, 4)
    assert equal(snapshot(optimizer, parameters), snapshot(fresh, others))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("QSADDLe", {"topology": "ring", "compressor": TOP}),
        ("NGM", {"topology": "ring", "qg_momentum": 0.9, "mixed_self_gradient": True}),
        ("GradientTracking", {"topology": "ring", "compressor": TOP, "consensus_step": 0.3}),
        ("D2", {"topology": "ring", "consensus_step": 0.5}),
        ("RelaySGD", {"topology": "chain"}),
        ("GUT", {"topology": "ring"}),
        ("QGAdam", {"topology": "ring"}),
        ("EASGD", {"agents": 6}),
    ],
)
def test_named_optimizers_load_in_place(method: str, options: dict[str, Any], seed: int) -> None:
    world = AgentLosses(6, seed)
    parameters = world.parameters()
    optimizer = getattr(fs, method)(parameters, lr=0.02, **options)
    train(optimizer, world, parameters, 3)
    before, saved = places(optimizer), snapshot(optimizer, parameters)
    kept = {n: {k: v.clone() for k, v in s.items()} for n, s in optimizer.state_dict()["state"].items()}  # fmt: skip
    state = {**optimizer.state_dict(), "state": kept}
    values = [p.detach().clone() for p in parameters]
    groups, sent, rounds = optimizer.param_groups, optimizer.bytes_sent, optimizer.rounds.clone()
    state["param_groups"] = [dict(group) for group in state["param_groups"]]
    train(optimizer, world, parameters, 2)
    optimizer.load_state_dict(state)
    with torch.no_grad():
        for p, value in zip(parameters, values, strict=True):
            p.copy_(value)
    optimizer.bytes_sent = sent
    optimizer.rounds.copy_(rounds)
    assert len(groups) == 1 and places(optimizer) == before
    assert equal(saved, snapshot(optimizer, parameters))


@each
def test_copies_go_on_alike_and_apart(name: str, seed: int) -> None:
    """A deep copy and one through a pickle, with gradient, rule and communicator."""
    optimizer, world, parameters = made(name, seed)
    train(optimizer, world, parameters, 4)
    before = snapshot(optimizer, parameters)
    copies = twins(optimizer)
    for copied, theirs in copies:
        train(copied, world, theirs, 4)
    assert equal(before, snapshot(optimizer, parameters))
    train(optimizer, world, parameters, 4)
    for copied, theirs in copies:
        assert equal(snapshot(optimizer, parameters), snapshot(copied, theirs))


class Failing(R.Rule):
    """Momentum of a user's own, which stops in the middle of the second group when it is told to."""

    hyperparameters: ClassVar = {"momentum": R.Range(0, 1, default=0.9)}
    states = (R.State("momentum_buffer"), R.State("own", width="scalar"), R.ROUND)
    ascent_state = "momentum_buffer"
    error: type[BaseException] | None = None

    def step(self, rows: fs.rules.Rows, comm: Any) -> None:
        rows.states["own"].add_(1)
        m = rows.states["momentum_buffer"].mul_(rows["momentum"]).add_(rows.g)
        rows.x.sub_(rows.lr * m)
        rows.x.copy_(comm.mixed(rows.x))
        if self.error is not None and rows.columns.start > 0:
            raise self.error("told to")


GRADIENTS = {
    "plain": G.Plain(),
    "sam": G.SAM(0.1),
    "look": LOOK,
    "esam": ESAM,
    "momentum": G.SAM(0.1, sam=fs.MomentumSAM()),
}
COMMUNICATORS = {
    "gossip": gossip("ring"),
    "top-k": gossip("ring", fs.Choco(TOP, running_sum=True), 0.3),
    "quantized": gossip("ring", QUANTIZER, every=2, rounds=2),
    "average": fs.comm.Average(period=2),
}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("heard", COMMUNICATORS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_rule_that_fails_has_done_nothing(
    gradient: str, heard: str, error: type[BaseException], seed: int
) -> None:
    """In the second group, when the first has moved; afterwards it goes on as if nothing had been."""
    works = []
    for _ in range(2):
        parts = {"gradient": GRADIENTS[gradient], "communicator": COMMUNICATORS[heard]}
        works.append(made("sgd", seed, rule=Failing(), **parts))
    (optimizer, world, parameters), (twin, other, theirs) = works
    for step in range(3):
        world.now = other.now = step
        before = snapshot(optimizer, parameters)
        optimizer.rule.error = error
        with pytest.raises(error, match="told to"):
            optimizer.step(world.closure(optimizer, parameters))
        assert equal(before, snapshot(optimizer, parameters))
        assert not optimizer.perturbed and optimizer.passes == twin.passes
        optimizer.rule.error = None
        optimizer.step(world.closure(optimizer, parameters))
        twin.step(other.closure(twin, theirs))
    assert equal(snapshot(twin, theirs), snapshot(optimizer, parameters))


class Breaking(fs.comm.Communicator):
    """A ring of one's own that fails after so many exchanges."""

    states = (R.State("x_heard"),)

    def __init__(self, agents: int, good: int) -> None:
        self.agents, self.good = agents, good

    def mix(self, x: torch.Tensor, exchange: fs.comm.Exchange) -> torch.Tensor:
        exchange.states["x_heard"].copy_(x)
        self.good -= 1
        if self.good == -1:
            raise OSError("unplugged")
        return (x + x.roll(1, 0) + x.roll(-1, 0)) / 3


SENT = {
    "sgd": R.Momentum,
    "local": lambda: R.Momentum("local"),
    "gt": lambda: R.GradientTracking(0.5),
    "mt": R.MomentumTracking,
    "d2": lambda: R.D2(0.5),
    "adam": R.QGAdam,
    "adapted": R.AdaptedMomentum,
}


@pytest.mark.parametrize("rule", SENT)
def test_a_communicator_that_fails_has_done_nothing(rule: str, seed: int) -> None:
    """In the last exchange of the second group."""
    rows = len(SENT[rule]().sends)
    broken = Breaking(6, good=6 * rows - 1)
    whole = Breaking(6, good=100)
    works = [made("sgd", seed, rule=SENT[rule](), communicator=c) for c in (broken, whole)]
    (optimizer, world, parameters), (twin, other, theirs) = works
    for used, same, own in works:
        train(used, same, own, 2)
    before = snapshot(optimizer, parameters)
    with pytest.raises(OSError, match="unplugged"):
        optimizer.step(world.closure(optimizer, parameters))
    assert equal(before, snapshot(optimizer, parameters))
    optimizer.step(world.closure(optimizer, parameters))
    twin.step(other.closure(twin, theirs))
    assert equal(snapshot(twin, theirs), snapshot(optimizer, parameters))


OVERFLOWS = {
    "top-k": (TOP, -3e38, "got NaN or infinity in rows"),
    "sign": (Sign(), -3e38, "got NaN or infinity in rows"),
    "l2": (StochasticQuantizer(8, None, "l2", 255), 0.0, "overflows in rows"),
}


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("rule", SENT)
def test_an_overflow_that_is_refused_has_changed_nothing(
    rule: str, overflow: str, seed: int
) -> None:
    """In the second group, whose difference to the public copies leaves float32, or its norm does."""
    compressor, hat, reason = OVERFLOWS[overflow]
    draw = torch.Generator().manual_seed(seed)
    small, large = (torch.nn.Parameter(torch.randn(4, 9, generator=draw)) for _ in range(2))
    optimizer: Any = fs.Optimizer(
        [{"params": [small]}, {"params": [large]}],
        0.1,
        rule=SENT[rule](),
        communicator=gossip("ring", compressor, 0.3),
    )
    for step in range(3):
        for p in (small, large):
            p.grad = torch.randn(4, 9, generator=draw)
        if step == 2:
            with torch.no_grad():
                large[:, :2] = 3e38
            optimizer.state[large]["x_hat"].fill_(hat)
            before = snapshot(optimizer, [small, large])
            with pytest.raises(ValueError, match=reason):
                optimizer.step()
            assert equal(before, snapshot(optimizer, [small, large]))
        else:
            optimizer.step()
