"""NGM and NSADDLe against float64 oracles: trajectories, messages, refusals, state."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from tests.comm.test_choco import Own
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    GRAPHS,
    RATE,
    SIZES,
    STEPS,
    AgentLosses,
    close,
    follow,
    groups,
    rows,
)
from tests.optimizers.cross_gradient_oracles import CrossGradients
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot, twins

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ngm": ("NGM", {}),
    "plain": ("NGM", {"momentum": 0.0}),
    "nesterov": ("NGM", {"nesterov": True}),
    "qg": ("NGM", {"qg_momentum": 0.9}),
    "qg-nesterov": ("NGM", {"momentum": 0.8, "qg_momentum": 0.9, "nesterov": True}),
    "damped": ("NGM", {"consensus_step": 0.7}),
    "mixed": ("NGM", {"mixed_self_gradient": True, "consensus_step": 0.7, "nesterov": True}),
    "mixed-qg": ("NGM", {"mixed_self_gradient": True, "qg_momentum": 0.9}),
    "maximize": ("NGM", {"maximize": True}),
    "saddle": ("NSADDLe", {"rho": 0.05}),
    "saddle-self": ("NSADDLe", {"rho": 0.2, "perturb": "self", "consensus_step": 0.7}),
    "saddle-adaptive": ("NSADDLe", {"rho": 0.5, "adaptive": True, "nesterov": True}),
    "saddle-qg-self": (
        "NSADDLe",
        {"rho": 0.5, "adaptive": True, "qg_momentum": 0.9, "nesterov": True, "perturb": "self"},
    ),
    "saddle-mixed": ("NSADDLe", {"rho": 0.1, "mixed_self_gradient": True, "momentum": 0.8}),
    "saddle-maximize": ("NSADDLe", {"rho": 0.1, "maximize": True, "consensus_step": 0.7}),
}
FEW = ("qg-nesterov", "mixed", "saddle", "saddle-qg-self")
each_variant = pytest.mark.parametrize("variant", ["data", "model"])
each_graph = pytest.mark.parametrize("graph", ["ring", "kite"])
few = pytest.mark.parametrize("name", FEW)


class Work:
    """One optimizer on its own copy of one problem, and an oracle that starts where it does."""

    def __init__(
        self, name: str, graph: str, variant: str, seed: int, same: bool = False, **more: Any
    ) -> None:
        method, options = METHODS[name]
        topology, self.W, backend = GRAPHS[graph]
        self.options = {"cross_gradients": variant, **options, **more}
        sign = -1.0 if self.options.get("maximize") else 1.0
        self.world = AgentLosses(topology.agents, seed, same, sign)
        self.parameters, self.calls = self.world.parameters(), 0
        self.optimizer = getattr(fs, method)(
            self.parameters,
            lr=RATE,
            topology=topology,
            weight_decay=DECAY,
            backend=backend,
            **self.options,
        )

    def oracle(self, Q: Callable[[torch.Tensor], torch.Tensor] | None = None) -> CrossGradients:
        known = {k: v for k, v in self.options.items() if k not in ("compressor", "seed")}
        eta, decay = torch.full((DIM,), RATE).double(), torch.full((DIM,), DECAY).double()
        start = rows(self.world.start)
        return CrossGradients(start, self.W, self.world.gradient, eta, decay, Q=Q, **known)

    def step(self, at: int, fails: int = 0, how: str = "raise") -> Any:
        """On the data of step `at`; the closure's call number `fails` raises or gives agent 1 a gradient of NaN."""
        self.world.now, self.calls = at, 0

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            self.calls += 1
            losses = self.world.of(self.parameters)
            if self.calls == fails:
                if how == "raise":
                    raise KeyboardInterrupt
                losses = losses * torch.tensor([1, torch.nan, 1, 1, 1])
            losses.sum().backward()
            return losses.sum()

        return self.optimizer.step(closure)


def evaluations(work: Work, degree: int) -> int:
    """Of every agent in one step."""
    if "rho" not in work.options:
        return degree + 1
    return degree + 2 if work.options.get("perturb") == "self" else 2 * (degree + 1)


@each_variant
@each_graph
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_with_a_drop(name: str, graph: str, variant: str, seed: int) -> None:
    work = Work(name, graph, variant, seed, same=graph == "kite")
    follow(work.optimizer, work.world, work.parameters, work.oracle())


@pytest.mark.parametrize("method", ["NGM", "NSADDLe"])
def test_quasi_global_momentum_of_mixed_models(method: str, seed: int) -> None:
    """The authors' trainer, in its order: mix, let the buffer follow the mixed models over the rate of the step before,
    take gradients, and step from the mixed models. Quadratics, whose gradients are written out; a rate that drops."""
    draw = torch.Generator().manual_seed(seed)
    h, b, x = (torch.randn(5, 6, generator=draw).double() for _ in range(3))
    h, beta, mu, W = h.square(), 0.8, 0.9, GRAPHS["ring"][1]
    options = {"rho": 0.0} if method == "NSADDLe" else {}
    p = torch.nn.Parameter(x.float())
    optimizer = getattr(fs, method)(
        [p],
        topology="ring",
        cross_gradients="model",
        momentum=beta,
        qg_momentum=mu,
        mixed_self_gradient=True,
        **options,
    )
    m, before, last = torch.zeros_like(x), None, 0.0
    for step in range(12):
        lr = 0.05 if step < 6 else 0.005
        optimizer.param_groups[0]["lr"] = lr
        mixed = W @ x
        if before is not None:
            m = mu * m + (1 - mu) * (before - mixed) / last
        own = W.diag()[:, None] * h * (mixed - b)
        others = sum(
            W[:, j, None] * h * (x[j] - b) * (torch.arange(5) != j)[:, None] for j in range(5)
        )
        before, last = mixed, lr
        x = mixed - lr * (beta * m + own + others)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (h.float() * (p - b.float()).square()).sum() / 2
            loss.backward()
            return loss

        optimizer.step(closure)
    close(p.detach().double(), x)


@each_variant
@few
def test_uneven_weights(name: str, variant: str, seed: int) -> None:
    """A mixing matrix of one's own: gradients are weighed by W itself, whatever the consensus step."""
    work = Work(name, "uneven", variant, seed, consensus_step=0.5)
    follow(work.optimizer, work.world, work.parameters, work.oracle())


@each_variant
@pytest.mark.parametrize("name", ["ngm", "qg-nesterov", "saddle-qg-self"])
def test_at_rate_zero_models_are_mixed(name: str, variant: str, seed: int) -> None:
    """And a quasi-global buffer is left as it is."""
    work = Work(name, "kite", variant, seed, consensus_step=0.7)
    work.step(0)
    before, held = rows(work.parameters), work.optimizer.flat_state
    held = {name: value.clone() for name, value in held.items()}
    work.optimizer.param_groups[0]["lr"] = 0.0
    work.step(1)
    close(rows(work.parameters), 0.3 * before + 0.7 * work.W @ before, 1e-6)
    if "qg_momentum" in work.options:
        assert held and all(torch.equal(held[k], v) for k, v in work.optimizer.flat_state.items())


@each_variant
@few
def test_two_groups(name: str, variant: str, seed: int) -> None:
    """Other rates for two tensors; norms still are of the whole model."""
    method, options = METHODS[name]
    topology, W, _ = GRAPHS["kite"]
    world = AgentLosses(topology.agents, seed)
    parameters = world.parameters()
    given, eta, decay = groups(parameters)
    options = {"cross_gradients": variant, **options}
    optimizer = getattr(fs, method)(
        given, lr=RATE, topology=topology, weight_decay=DECAY, **options
    )
    oracle = CrossGradients(rows(world.start), W, world.gradient, eta, decay, **options)
    follow(optimizer, world, parameters, oracle)


@each_variant
@each_graph
@few
def test_evaluations_bytes_and_the_loss(name: str, graph: str, variant: str, seed: int) -> None:
    """As many evaluations as the largest degree asks for; a model to each neighbor, and a gradient back."""
    work = Work(name, graph, variant, seed)
    degree = {"ring": 2, "kite": 3}[graph]
    for step in range(3):
        work.world.now = step
        expected = float(work.world.of(work.parameters).sum().detach())
        loss = work.step(step)
        assert work.calls == evaluations(work, degree)
        sent = (2 if variant == "data" else 1) * 10 * 4 * DIM
        assert work.optimizer.bytes_sent == (step + 1) * sent
        if not work.options.get("mixed_self_gradient"):
            assert abs(float(loss.detach()) - expected) <= 1e-5 * abs(expected)


def test_default_options(seed: int) -> None:
    """Data-variant, momentum 0.9, every gradient perturbed by 0.05."""
    given: tuple[tuple[str, dict[str, Any]], ...] = (("NGM", {}), ("NSADDLe", {"rho": 0.05}))
    for name, options in given:
        topology, W, _ = GRAPHS["ring"]
        world = AgentLosses(topology.agents, seed)
        parameters = world.parameters()
        optimizer = getattr(fs, name)(parameters, topology="ring")
        eta, decay = torch.full((DIM,), 0.1).double(), torch.zeros(DIM).double()
        oracle = CrossGradients(rows(world.start), W, world.gradient, eta, decay, **options)
        follow(optimizer, world, parameters, oracle)


@each_variant
@few
def test_one_ordinary_agent(name: str, variant: str, seed: int) -> None:
    method, options = METHODS[name]
    world = AgentLosses(1, seed)
    parameters = [torch.nn.Parameter(p[0].clone()) for p in world.start]
    options = {"cross_gradients": variant, **options}
    optimizer = getattr(fs, method)(parameters, lr=RATE, weight_decay=DECAY, **options)
    eta, decay = torch.full((DIM,), RATE).double(), torch.full((DIM,), DECAY).double()
    W = torch.ones(1, 1).double()
    oracle = CrossGradients(rows(world.start), W, world.gradient, eta, decay, **options)
    for world.now in range(STEPS):
        calls = []

        def closure(calls: list[None] = calls) -> torch.Tensor:
            calls.append(None)
            optimizer.zero_grad()
            loss = world.of([p[None] for p in parameters]).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        oracle.step()
        assert len(calls) == (2 if method == "NSADDLe" else 1)
    assert optimizer.bytes_sent == 0
    close(rows([p[None] for p in parameters]), oracle.x)


def tensorwise(Q: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda t: torch.cat([Q(part) for part in t.split(SIZES)])


@each_variant
@each_graph
@pytest.mark.parametrize("name", ["ngm", *FEW, "saddle-self"])
def test_compressed_trajectories(name: str, graph: str, variant: str, seed: int) -> None:
    """A compressor that is smooth in what it is given, so that nothing hangs on a rounding."""
    own = Own()
    options = {"compressor": own, "consensus_step": 0.6}
    work = Work(name, graph, variant, seed, same=graph == "kite", **options)
    Q = tensorwise(lambda t: own.of(t[None])[0])
    follow(work.optimizer, work.world, work.parameters, work.oracle(Q))


class Choosing:
    """Scaled sign, or the larger half, of one model; `margin` is how near it came to choosing otherwise."""

    def __init__(self, kind: str) -> None:
        self.kind, self.margin = kind, torch.inf

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.of(part) for part in t.split(SIZES)])

    def of(self, t: torch.Tensor) -> torch.Tensor:
        if len(t) == 1:
            return t.clone()
        if self.kind == "sign":
            self.margin = min(self.margin, float(t.abs().min()))
            return t.abs().mean() * t.sign()
        order = t.abs().sort(descending=True)
        k = len(t) // 2
        self.margin = min(self.margin, float(order.values[k - 1] - order.values[k]))
        return torch.zeros_like(t).index_copy(0, order.indices[:k], t[order.indices[:k]])


@each_variant
@each_graph
@pytest.mark.parametrize("kind", ["sign", "top-k"])
@pytest.mark.parametrize("name", ["ngm", "qg-nesterov", "saddle"])
def test_compressors_that_choose(name: str, kind: str, graph: str, variant: str, seed: int) -> None:
    """One error memory for each destination; problems where a rounding could decide are drawn again."""
    compressor, message = {
        "sign": (fs.compressors.Sign(), (2 + 4) + (1 + 4) + (2 + 4) + (1 + 4) + (1 + 4)),
        "top-k": (fs.compressors.TopK(0.5), 8 * (7 + 2 + 5 + 1 + 1)),
    }[kind]
    steps = 8
    options = {"compressor": compressor, "consensus_step": 0.3}
    for attempt in range(100):
        work, Q = Work(name, graph, variant, seed + attempt, **options), Choosing(kind)
        oracle = work.oracle(Q)
        for work.world.now in range(steps):
            oracle.step()
        if Q.margin > 1e-5:
            break
    else:
        pytest.fail("all of a hundred problems came within 1e-5 of a choice")
    for step in range(steps):
        work.step(step)
    assert (oracle.x - rows(work.world.start)).abs().max() > 0.05
    close(rows(work.parameters), oracle.x)
    sent = (2 if variant == "data" else 1) * 10 * message
    assert work.optimizer.bytes_sent == steps * sent


@each_variant
@each_graph
@few
def test_identity_is_no_compressor(name: str, graph: str, variant: str, seed: int) -> None:
    plain = Work(name, graph, variant, seed)
    given = Work(name, graph, variant, seed, compressor=fs.compressors.Identity())
    for step in range(6):
        plain.step(step)
        given.step(step)
    assert all(map(torch.equal, plain.parameters, given.parameters))
    assert plain.optimizer.bytes_sent == given.optimizer.bytes_sent


def test_a_step_needs_its_closure(seed: int) -> None:
    for name in ("ngm", "saddle"):
        work = Work(name, "ring", "data", seed)
        work.step(0)
        before = snapshot(work.optimizer, work.parameters)
        with pytest.raises((RuntimeError, ValueError), match="closure"):
            work.optimizer.step()
        assert equal(before, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize(
    ("graph", "compressor"), [("ring", None), ("kite", fs.compressors.Sign())], ids=["ring", "kite"]
)
@pytest.mark.parametrize("how", ["raise", "nan"])
@each_variant
@few
def test_a_failure_at_any_call_changes_nothing(
    name: str, graph: str, variant: str, how: str, compressor: Any, seed: int
) -> None:
    """Agent 1 has the largest degree, so it evaluates at every call."""
    options = {"compressor": compressor, "consensus_step": 0.3}
    work, twin = (Work(name, graph, variant, seed, **options) for _ in range(2))
    for step in range(2):
        work.step(step)
        twin.step(step)
    before = snapshot(work.optimizer, work.parameters)
    assert equal(before, snapshot(twin.optimizer, twin.parameters))
    for call in range(1, evaluations(work, {"ring": 2, "kite": 3}[graph]) + 1):
        error = KeyboardInterrupt if how == "raise" else fs.NonFiniteGradientError
        with pytest.raises(error, match=None if how == "raise" else "must be finite"):
            work.step(2, call, how)
        assert equal(before, snapshot(work.optimizer, work.parameters)), f"call {call}"
    for step in range(2, 4):
        work.step(step)
        twin.step(step)
    state = snapshot(twin.optimizer, twin.parameters)
    assert equal(state, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize(
    ("graph", "compressor"), [("ring", None), ("kite", fs.compressors.Sign())], ids=["ring", "kite"]
)
@each_variant
@few
def test_state_goes_on_bit_for_bit(
    name: str, graph: str, variant: str, compressor: Any, seed: int
) -> None:
    options = {"compressor": compressor, "consensus_step": 0.3}
    work = Work(name, graph, variant, seed, **options)
    for step in range(4):
        work.step(step)
    fresh = Work(name, graph, variant, seed + 1, **options)
    reload(work.optimizer, work.parameters, fresh.optimizer, fresh.parameters)
    fresh.world = work.world
    for step in range(4, 8):
        work.step(step)
        fresh.step(step)
    assert all(map(torch.equal, work.parameters, fresh.parameters))


@each_variant
@few
def test_copies_step_like_the_original(name: str, variant: str, seed: int) -> None:
    options = {"compressor": fs.compressors.Sign(), "consensus_step": 0.3}
    work = Work(name, "kite", variant, seed, **options)
    for step in range(4):
        work.step(step)
    copies = twins(work.optimizer)
    for step in range(4, 7):
        work.step(step)
        for optimizer, parameters in copies:
            optimizer.step(work.world.closure(optimizer, parameters))
    for optimizer, parameters in copies:
        assert all(map(torch.equal, work.parameters, parameters))
        assert optimizer.bytes_sent == work.optimizer.bytes_sent


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("NGM", {"cross_gradients": "both"}, "cross_gradients must be .*got 'both'"),
        ("NSADDLe", {"cross_gradients": "both"}, "cross_gradients must be .*got 'both'"),
        ("NGM", {"cross_gradients": None}, "cross_gradients must be .*got None"),
        ("NSADDLe", {"perturb": "none"}, "perturb must be .*got 'none'"),
        ("NSADDLe", {"rho": -0.1}, "rho must be >= 0 and finite, got -0.1"),
        ("NGM", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1"),
        ("NGM", {"qg_momentum": 1.5}, r"qg_momentum must be in \[0, 1\), got 1.5"),
        ("NGM", {"consensus_step": 1.5}, r"consensus_step must be in \[0, 1\], got 1.5"),
        ("NGM", {"compressor": "sign"}, "compressor must be "),
        ("NGM", {"topology": fs.topology.ring(4)}, "has 4 agents, but 5 are needed"),
    ],
)
def test_bad_options(method: str, options: dict[str, Any], message: str, seed: int) -> None:
    parameters = AgentLosses(5, seed).parameters()
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(ValueError, match=message):
        getattr(fs, method)(parameters, **{"lr": 0.1, "topology": "ring", **options})
    assert all(map(torch.equal, parameters, before))


@pytest.mark.parametrize("kind", ["both", None, "DATA"])
def test_a_part_calls_its_arguments_as_they_are(kind: Any) -> None:
    with pytest.raises(ValueError, match=f'^kind must be "data" or "model", got {kind!r}$'):
        fs.gradients.Cross(kind=kind)
