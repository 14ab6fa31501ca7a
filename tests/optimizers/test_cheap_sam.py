"""LookSAM, MomentumSAM, ESAM and adaptive SAM in D-SADDLe, Q-SADDLe and N-SADDLe, against float64 oracles."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.gradients.ascents import FullSAM
from fastsaddle.sim.gradient_engine import GradientEngine
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    DROP,
    GRAPHS,
    RATE,
    SIZES,
    STEPS,
    AgentLosses,
    close,
    groups,
    rows,
)
from tests.optimizers.cheap_sam_oracles import CheapSaddle
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "d": ("DSADDLe", {}),
    "d-maximize": ("DSADDLe", {"maximize": True, "consensus_step": 0.7}),
    "q": ("QSADDLe", {"momentum": 0.9}),
    "q-mu": ("QSADDLe", {"momentum": 0.8, "qg_momentum": 0.9, "nesterov": True}),
    "q-maximize": ("QSADDLe", {"momentum": 0.9, "maximize": True}),
    "n": ("NSADDLe", {"momentum": 0.9}),
    "n-model": ("NSADDLe", {"momentum": 0.9, "cross_gradients": "model", "nesterov": True}),
    "n-qg": ("NSADDLe", {"momentum": 0.8, "qg_momentum": 0.9, "maximize": True}),
    "n-self": (
        "NSADDLe",
        {"momentum": 0.9, "perturb": "self", "mixed_self_gradient": True, "consensus_step": 0.7},
    ),
}
SAMS: dict[str, dict[str, Any]] = {
    "look": {"sam": fs.LookSAM(period=3, strength=0.7), "rho": 0.3},
    "look-adaptive": {"sam": fs.LookSAM(period=4, strength=0.2), "rho": 0.7, "adaptive": True},
    "momentum": {"sam": fs.MomentumSAM(), "rho": 0.4},
    "momentum-adaptive": {"sam": fs.MomentumSAM(), "rho": 0.7, "adaptive": True},
    "esam": {"sam": fs.ESAM(weights=0.6), "rho": 0.1},
    "esam-adaptive": {"sam": fs.ESAM(weights=0.45), "rho": 0.4, "adaptive": True},
    "asam": {"rho": 0.5, "adaptive": True},
}
PLAIN = ("look", "momentum", "esam")
MAIN = ("d", "q-mu", "n", "n-self")
# D-SADDLe has no momentum to go along
PAIRS = [(m, s) for m in METHODS for s in SAMS if not (m[0] == "d" and "momentum" in s)]
PAIRS = [(m, s) for m, s in PAIRS if m in MAIN or s in PLAIN]
FEW = [(m, s) for m, s in PAIRS if m in MAIN and s in PLAIN]
each_graph = pytest.mark.parametrize("graph", ["ring", "kite"])
few = pytest.mark.parametrize(("name", "sam"), FEW)
few_phases = pytest.mark.parametrize(("name", "sam"), [(m, s) for m, s in FEW if m[0] != "n"])
DEGREE = {"ring": 2, "kite": 3}


class Work:
    """One optimizer on its own problem; `seen` are the models of each call of the closure in a step."""

    def __init__(self, name: str, graph: str, seed: int, /, **more: Any) -> None:
        method, options = METHODS[name]
        self.topology, self.W, backend = GRAPHS[graph]
        self.options = {**options, **more}
        sign = -1.0 if self.options.get("maximize") else 1.0
        self.method, self.world = method, AgentLosses(self.topology.agents, seed, sign=sign)
        self.parameters, self.seen = self.world.parameters(), []
        self.eta, self.decay = torch.full((DIM,), RATE).double(), torch.full((DIM,), DECAY).double()
        given: list[Any] = self.parameters
        if graph == "kite":
            given, self.eta, self.decay = groups(self.parameters)
        self.optimizer: Any = getattr(fs, method)(
            given, lr=RATE, topology=self.topology, weight_decay=DECAY, backend=backend, **self.options
        )  # fmt: skip

    def backward(self) -> torch.Tensor:
        self.seen.append(rows(self.parameters))
        loss = self.world.of(self.parameters).sum()
        loss.backward()
        return loss

    def step(self, at: int, fails: int = 0, how: str = "raise") -> Any:
        """On the data of step `at`; the closure's call number `fails` raises or gives agent 1 a gradient of NaN."""
        self.world.now, self.seen = at, []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = self.backward()
            if len(self.seen) == fails:
                if how == "raise":
                    raise KeyError("interrupted")
                grad = self.parameters[2].grad
                assert grad is not None
                grad[1, 0, 0] = torch.nan
            return loss

        return self.optimizer.step(closure)

    def calls(self, degree: int) -> int:
        """What the next step should take."""
        sam, self_only = self.options.get("sam"), self.options.get("perturb") == "self"
        two = not isinstance(sam, fs.MomentumSAM)
        if isinstance(sam, fs.LookSAM):
            two = int(self.optimizer.rounds) % sam.period == 0
        others = degree if self.method == "NSADDLe" else 0
        return (1 + two) + others * (1 if self_only else 1 + two)

    def kept(self) -> dict[tuple[int, int], torch.Tensor]:
        """Weights `[DIM]` that the last step moved, by agent and slot: a tensor moves as a whole."""
        both = 1 if self.options.get("perturb") == "self" else len(self.seen) // 2
        found = {}
        for slot in range(both):
            moved = self.seen[2 * slot + 1] != self.seen[2 * slot]
            for agent in range(len(moved)):
                whole = [part.any().expand(len(part)) for part in moved[agent].split(SIZES)]
                found[agent, slot] = torch.cat(whole).double()
        return found


@each_graph
@pytest.mark.parametrize(("name", "sam"), PAIRS)
def test_twenty_steps_with_a_drop(name: str, sam: str, graph: str, seed: int) -> None:
    work = Work(name, graph, seed, **SAMS[sam])
    start, kept = rows(work.parameters), {}
    for step in range(STEPS):
        if step == DROP:
            for group in work.optimizer.param_groups:
                group["lr"] = 0.1 * group["lr"]
        expected = work.calls(DEGREE[graph])
        work.step(step)
        assert len(work.seen) == expected
        if isinstance(work.options.get("sam"), fs.ESAM):
            kept.update({(step, *where): mask for where, mask in work.kept().items()})
    oracle = CheapSaddle(
        start, work.W, work.world.gradient, work.eta, work.decay, work.method.lower(), kept=kept, **work.options
    )  # fmt: skip
    for work.world.now in range(STEPS):
        if work.world.now == DROP:
            oracle.eta = 0.1 * oracle.eta
        oracle.step()
    assert (oracle.x - start).abs().max() > 0.05
    close(rows(work.parameters), oracle.x)


@pytest.mark.parametrize("weights", [0.3, 0.75])
@pytest.mark.parametrize("name", ["q", "n"])
def test_esam_draws_tensors_for_each_agent(name: str, weights: float, seed: int) -> None:
    """Within five deviations of its chance; by seed, step and model, repeatably."""

    def masks(seed: int) -> torch.Tensor:
        work = Work(name, "ring", 3, sam=fs.ESAM(weights=weights), rho=0.1, seed=seed)
        found = []
        for step in range(STEPS):
            work.step(step)
            kept = work.kept()
            found.append(torch.stack([mask[[0, 15, 20, 30, 31]] for mask in kept.values()]))
        return torch.stack(found)

    drawn = masks(seed)
    deviation = math.sqrt(weights * (1 - weights) / drawn.numel())
    assert abs(drawn.mean() - weights) < 5 * deviation
    # every agent, model and tensor is drawn apart; two may be alike by chance
    apart = {tuple(column.tolist()) for column in drawn.flatten(1).T}
    assert len(apart) > 0.8 * drawn[0].numel()
    assert torch.equal(drawn, masks(seed)) and not torch.equal(drawn, masks(seed + 1))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sam", [fs.LookSAM(period=1), fs.ESAM(weights=1.0)])
@pytest.mark.parametrize("adaptive", [False, True])
def test_full_sam_is_the_limit(name: str, sam: FullSAM, adaptive: bool, seed: int) -> None:
    plain, cheap = (
        Work(name, "ring", seed, sam=s, adaptive=adaptive, rho=0.2) for s in (None, sam)
    )
    for step in range(6):
        assert torch.equal(plain.step(step), cheap.step(step))
        assert all(map(torch.equal, plain.parameters, cheap.parameters))


@few_phases
def test_the_three_customs_agree(name: str, sam: str, seed: int) -> None:
    """Bit for bit; a step of one pass needs no perturbation by hand, one along the momentum no first gradient."""
    whole, half, hands = works = [Work(name, "ring", seed, **SAMS[sam]) for _ in range(3)]
    for step in range(7):
        passes = whole.optimizer.passes
        along = isinstance(whole.options["sam"], fs.MomentumSAM)
        loss = whole.step(step)
        assert len(whole.seen) == passes == hands.optimizer.passes
        half.world.now = hands.world.now = step
        half.optimizer.zero_grad()
        first = None if along else half.backward()
        second = half.optimizer.step(half.backward, closure_passes=1)
        if first is None:
            assert torch.equal(second, loss)
        else:
            assert torch.equal(first, loss) and (second is None) == (passes == 1)
        if not along:
            hands.optimizer.zero_grad()
            hands.backward()
        if along or passes == 2:
            hands.optimizer.perturb(zero_grad=True)
            hands.backward()
        assert hands.optimizer.perturbed == (along or passes == 2)
        assert hands.optimizer.step() is None
        states = [snapshot(work.optimizer, work.parameters) for work in works]
        assert equal(states[0], states[1]) and equal(states[0], states[2])
        assert torch.equal(whole.seen[-1], half.seen[-1])


@few_phases
def test_by_hand(name: str, sam: str, seed: int) -> None:
    """Where a gradient is missing nothing moves; `restore` undoes a perturbation exactly."""
    work = Work(name, "ring", seed, **SAMS[sam])
    work.step(0)
    before = snapshot(work.optimizer, work.parameters)
    models = rows(work.parameters)
    work.optimizer.perturb()
    assert work.optimizer.perturbed and not torch.equal(rows(work.parameters), models)
    with pytest.raises(RuntimeError, match="perturbed already"):
        work.optimizer.perturb()
    work.optimizer.restore()
    assert equal(before, snapshot(work.optimizer, work.parameters))
    if work.optimizer.passes == 2 or isinstance(work.options["sam"], fs.MomentumSAM):
        lacks = "call train\\(\\)" if sam == "momentum" else "needs two gradients a step"
        with pytest.raises(RuntimeError, match=lacks):
            work.optimizer.step()
    assert equal(before, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize("how", ["raise", "nan"])
@few
def test_a_failure_in_any_pass_changes_nothing(name: str, sam: str, how: str, seed: int) -> None:
    """In a full step and, with LookSAM, in one between; then both go on bit for bit."""
    work, twin = (Work(name, "ring", seed, **SAMS[sam]) for _ in range(2))
    error = KeyError if how == "raise" else fs.NonFiniteGradientError
    for step in range(5):
        before = snapshot(work.optimizer, work.parameters)
        for call in range(1, work.calls(2) + 1):
            with pytest.raises(error, match="interrupted" if how == "raise" else "must be finite"):
                work.step(step, call, how)
            assert equal(before, snapshot(work.optimizer, work.parameters)), (step, call)
        work.step(step)
        twin.step(step)
        both = [snapshot(w.optimizer, w.parameters) for w in (work, twin)]
        assert equal(both[0], both[1])


@few
def test_an_agent_without_a_gradient_is_left_out(name: str, sam: str, seed: int) -> None:
    """nonfinite="skip": no NaN reaches a model, a buffer or a kept direction, whichever pass has it."""
    for call in range(1, Work(name, "ring", seed, **SAMS[sam]).calls(2) + 1):
        work = Work(name, "ring", seed, nonfinite="skip", **SAMS[sam])
        for step in range(5):
            work.step(step, fails=call if step == 3 else 0, how="nan")
            state = list(work.optimizer.flat_state.values())
            assert all(t.isfinite().all() for t in (*work.parameters, *state))
            assert not work.optimizer.perturbed


@each_graph
@few
def test_state_goes_on_bit_for_bit(name: str, sam: str, graph: str, seed: int) -> None:
    """From a checkpoint in the middle of a period, and from a copy."""
    work = Work(name, graph, seed, **SAMS[sam])
    for step in range(5):
        work.step(step)
    fresh = Work(name, graph, seed + 1, **SAMS[sam])
    reload(work.optimizer, work.parameters, fresh.optimizer, fresh.parameters)
    fresh.world = work.world
    held = copy.deepcopy((work.optimizer, work.parameters))
    twin = Work(name, graph, seed, **SAMS[sam])
    twin.optimizer, twin.parameters = held
    for step in range(5, 10):
        for other in (work, fresh, twin):
            other.step(step)
        assert all(map(torch.equal, work.parameters, fresh.parameters))
        assert all(map(torch.equal, work.parameters, twin.parameters))


@pytest.mark.parametrize("engine", ["vmap", "loop"])
@pytest.mark.parametrize("name", ["q", "n"])
@pytest.mark.parametrize("sam", PLAIN)
def test_statistics_move_once_a_step(name: str, sam: str, engine: str, seed: int) -> None:
    """Those of BatchNorm, whichever passes a step takes."""
    method, options = METHODS[name]
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    stack = fs.AgentStack(module, 5)
    optimizer = getattr(fs, method)(stack.parameters(), topology="ring", **options, **SAMS[sam])
    gradients = GradientEngine(stack, F.mse_loss, engine)
    draw = torch.Generator().manual_seed(seed)
    for step in range(1, 5):
        inputs, targets = (torch.randn(5, 6, k, generator=draw) for k in (4, 2))
        optimizer.step(lambda x=inputs, y=targets: gradients.gradients(x, y).mean())
        assert stack.buffers["1.num_batches_tracked"].tolist() == [step] * 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("LookSAM", {"period": 0}, "period must be a whole number >= 1, got 0"),
        ("LookSAM", {"period": 2.5}, "period must be a whole number >= 1, got 2.5"),
        ("LookSAM", {"strength": -0.1}, "strength must be >= 0 and finite, got -0.1"),
        ("LookSAM", {"strength": math.inf}, "strength must be >= 0 and finite, got inf"),
        ("ESAM", {"weights": 0.0}, r"weights must be in \(0, 1\], got 0.0"),
        ("ESAM", {"weights": math.nan}, r"weights must be in \(0, 1\], got nan"),
        ("ESAM", {"samples": 1.5}, r"samples must be in \(0, 1\], got 1.5"),
    ],
)
def test_bad_numbers(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(fs, name)(**options)


@pytest.mark.parametrize(
    ("method", "sam", "message"),
    [
        (
            "DSADDLe",
            fs.MomentumSAM(),
            r'MomentumSAM needs a momentum buffer, Momentum\("none"\) has none',
        ),
        ("QSADDLe", "looksam", "sam must be fs.LookSAM.*got 'looksam'"),
        ("NSADDLe", fs.ESAM, "sam must be fs.LookSAM.*got .*ESAM"),
    ],
)
def test_bad_options(method: str, sam: Any, message: str, seed: int) -> None:
    parameters = AgentLosses(5, seed).parameters()
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(ValueError, match=message):
        getattr(fs, method)(parameters, topology="ring", sam=sam)
    assert all(map(torch.equal, parameters, before))
    assert all(p.grad is None for p in parameters)


def test_sharpest_samples(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    before, after = torch.randn(2, 3, 11, generator=draw)
    for fraction, k in ((1.0, 11), (0.5, 5), (0.3, 3), (0.01, 1)):
        found = fs.sharpest(before, after, fraction)
        assert found.shape == (3, k) and found.dtype == torch.int64
        for row in range(3):
            grown = (after - before)[row].tolist()
            best = sorted(range(11), key=lambda index: -grown[index])[:k]
            assert found[row].tolist() == sorted(best)
        assert torch.equal(fs.sharpest(before[1], after[1], fraction), found[1])
    with pytest.raises(ValueError, match=r"shaped alike, got \(3, 11\) and \(11,\)"):
        fs.sharpest(before, after[0], 0.5)
    with pytest.raises(ValueError, match="shaped alike"):
        fs.sharpest(before[0, 0], after[0, 0], 0.5)
    for fraction in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\], got {fraction}"):
            fs.sharpest(before, after, fraction)
