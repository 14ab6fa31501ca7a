"""Bad input: one clear error that names the rule and what was seen, before anything has changed."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.optimizer.shell import Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = {m.__name__: m for m in (fs.DSGD, fs.DSGDm, fs.QGM, fs.DSADDLe, fs.QSADDLe)}
MOMENTUM, SHARP = (fs.DSGDm, fs.QGM, fs.QSADDLe), (fs.DSADDLe, fs.QSADDLe)
each_pass = pytest.mark.parametrize(
    ("method", "nonfinite_pass"), [(m, 1) for m in METHODS.values()] + [(m, 2) for m in SHARP]
)


def good(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(3, *shape))


def skewed() -> fs.Topology:
    W = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.3, 0.2, 0.5]])
    return fs.topology.from_matrix(W, require_symmetric=False)


def shared() -> list[nn.Parameter]:
    p = good(4)
    return [p, nn.Parameter(p.detach())]


def overlapping() -> list[nn.Parameter]:
    values = torch.randn(9, 4)
    return [nn.Parameter(values[k : k + 3]) for k in (2, 0, 6)]


# who is asked -> parameters, options, message
OPTIONS: dict[str, tuple[tuple[type[Any], ...], dict[str, Any], str]] = {
    "lr": ((fs.DSGD, fs.QSADDLe), {"lr": -0.1}, r"lr must be >= 0 and finite, got -0\.1"),
    "lr nan": ((fs.QGM,), {"lr": float("nan")}, "lr must be >= 0 and finite, got nan"),
    "lr inf": ((fs.QGM,), {"lr": torch.tensor(torch.inf)}, "lr must be .* got .*inf"),
    "lr of some": ((fs.QGM,), {"lr": torch.ones(2)}, r"lr must be one .* \(3,\), got \(2,\)"),
    "rho": (SHARP, {"rho": -1.0}, r"rho must be >= 0 and finite, got -1\.0"),
    "rho of some": (SHARP, {"rho": torch.ones(3, 1)}, r"rho must be one .* got \(3, 1\)"),
    "decay": ((fs.DSGD,), {"weight_decay": -1e-4}, "weight_decay must be >= 0 .* got -0.0001"),
    "momentum": (MOMENTUM, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0"),
    "mu": ((fs.QGM, fs.QSADDLe), {"qg_momentum": -0.5}, r"qg_momentum must be in .* got -0\.5"),
    "compressor": (
        (fs.DSGD, fs.QSADDLe),
        {"compressor": "sign"},
        r"compressor must be None, an fs\.compressors\.Compressor, or one in an fs\.Choco, got 'sign'",
    ),
    "nonfinite": ((fs.DSGD,), {"nonfinite": "ignore"}, "nonfinite must be .* got 'ignore'"),
    "gamma": ((fs.DSGD,), {"consensus_step": 1.5}, r"consensus_step must be in \[0, 1\], got 1\.5"),
    "passes": (SHARP, {"closure_passes": 3}, "closure_passes must be 2 .* got 3"),
    "backend": ((fs.DSGD,), {"backend": "cuda"}, "backend must be one of .*native.* got 'cuda'"),
    "graph": ((fs.DSGD,), {"topology": "path"}, "unknown topology 'path'; known: ring"),
    "no graph": ((fs.DSGD,), {"topology": 3}, "must be a Schedule, a Topology or a string, got 3"),
    "size": ((fs.QGM,), {"topology": fs.topology.ring(4)}, "ring has 4 agents, but 3 are needed"),
    "skewed": (
        tuple(METHODS.values()),
        {"topology": skewed()},
        r"needs a doubly stochastic mixing matrix, Topology\(matrix.* is row-stochastic",
    ),
    "skewed in a round": (
        tuple(METHODS.values()),
        {"topology": fs.topology.sequence([fs.topology.ring(3), skewed()])},
        r"needs a doubly stochastic mixing matrix, that of round 1 of .*sequence.* is row-stochastic",
    ),
}
GIVEN: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "leading dimension": (
        lambda: [good(4), nn.Parameter(torch.randn(2, 4))],
        r"stacked as \[agents, \.\.\.\], as those of fs\.AgentStack.* got no common first dimension; "
        "where each process has one agent, an ordinary module, give process_group=",
    ),
    "no dimension": (lambda: [good(4), nn.Parameter(torch.randn(()))], "stacked.* got no common"),
    "first without": (lambda: [nn.Parameter(torch.randn(())), good(4)], "stacked.* got no common"),
    "double": (
        lambda: [good(4), nn.Parameter(torch.randn(3, 2).double())],
        "float32 or bfloat16, got .*float64",
    ),
    "half": (
        lambda: [good(4), nn.Parameter(torch.randn(3, 2).half())],
        "float32 or bfloat16, got .*float16",
    ),
    "devices": (
        lambda: [good(4), nn.Parameter(torch.randn(3, 2, device="meta"))],
        "on one device, got cpu and meta",
    ),
    "memory": (shared, "must not share memory, but 0 and 1 do"),
    "part of memory": (overlapping, "must not share memory, but 1 and 0 do"),
    "nothing": (list, "empty parameter list"),
    "empty groups": (lambda: [{"params": []}, {"params": []}], "at least one parameter is needed"),
    "bad group": (lambda: [{"params": [good(4)]}, {"params": [good(2)], "lr": -2.0}], "got -2.0"),
}


def untouched(parameters: list[Any]) -> Callable[[], bool]:
    flat = [p for g in parameters for p in (g["params"] if isinstance(g, dict) else [g])]
    before = [(p, p.data_ptr(), p.detach().clone()) for p in flat]
    return lambda: all(
        p.data_ptr() == at and p.grad is None and (p.is_meta or torch.equal(p, value))
        for p, at, value in before
    )


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(case: str, seed: int) -> None:
    torch.manual_seed(seed)
    methods, options, message = OPTIONS[case]
    for method in methods:
        parameters = [good(4), good(2, 3)]
        same = untouched(parameters)
        with pytest.raises(ValueError, match=message):
            method(parameters, **{"lr": 0.1, "topology": "ring", **options})
        assert same()


@pytest.mark.parametrize("case", GIVEN)
def test_bad_parameters(case: str, seed: int) -> None:
    torch.manual_seed(seed)
    build, message = GIVEN[case]
    for method in METHODS.values():
        parameters = build()
        same = untouched(parameters)
        with pytest.raises(ValueError, match=message):
            method(parameters, lr=0.1, topology="ring")
        assert same()


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton runs everywhere")
def test_backend_that_cannot_run(seed: int) -> None:
    torch.manual_seed(seed)
    parameters = [good(4)]
    same = untouched(parameters)
    with pytest.raises(ImportError, match="cannot run on backend 'triton'"):
        fs.QSADDLe(parameters, topology="ring", backend="triton")
    assert same()


def test_bad_matrices() -> None:
    for W, message in (
        ([[0.5, 0.5], [0.5, 0.4]], r"row-stochastic, got row 1 with sum 0\.9"),
        ([[1.5, -0.5], [-0.5, 1.5]], r"non-negative, got W\[0, 1\] = -0\.5"),
        ([[0.5, 0.5], [0.2, 0.8]], r"symmetric .*got W\[0, 1\] = 0\.5 and W\[1, 0\] = 0\.2"),
        ([[1.0, 0.0], [0.0, 1.0]], "connected"),
    ):
        with pytest.raises(ValueError, match=message):
            fs.topology.from_matrix(W)


def gradient(p: torch.Tensor) -> torch.Tensor:
    assert p.grad is not None
    return p.grad


class Work:
    """Agents with a quartic each; a multiplier for each agent's gradient, by pass."""

    def __init__(self, method: type[Any], seed: int, agents: int = 3, **options: Any) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.parameters = [
            nn.Parameter(torch.randn(agents, *s, generator=draw)) for s in ((4,), (2, 5))
        ]
        groups = [{"params": [p]} for p in self.parameters]
        self.optimizer: Optimizer = method(
            groups, **{"lr": 0.02, "topology": "ring", "weight_decay": 0.1, **options}
        )
        self.calls, self.gradients = 0, []

    def step(self, *factors: torch.Tensor) -> None:
        calls = iter(factors)

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            factor = next(calls, torch.ones(()))
            quartics = [p.pow(4).flatten(1).sum(1) for p in self.parameters]
            loss = (factor * torch.stack(quartics)).sum()
            loss.backward()
            self.gradients = [gradient(p).clone() for p in self.parameters]
            return loss

        self.optimizer.step(closure)

    def values(self) -> list[torch.Tensor]:
        state = [t for p in self.parameters for t in self.optimizer.state[p].values()]
        return [t.detach().clone() for t in (*self.parameters, *state)]

    def equals(self, values: list[torch.Tensor]) -> bool:
        return all(map(torch.equal, self.values(), values))


@each_pass
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nonfinite_gradients_are_refused(
    method: type[Any], nonfinite_pass: int, bad: float, seed: int
) -> None:
    work, twin = Work(method, seed), Work(method, seed)
    work.step()
    twin.step()
    before, sent = work.values(), work.optimizer.bytes_sent
    factors = [torch.ones(3)] * (nonfinite_pass - 1) + [torch.tensor([1.0, bad, 1.0])]
    with pytest.raises(fs.NonFiniteGradientError, match=r"must be finite.*for agents \[1\]"):
        work.step(*factors)
    assert work.equals(before) and work.optimizer.bytes_sent == sent
    for p, was in zip(work.parameters, work.gradients, strict=True):
        assert torch.equal(gradient(p).nan_to_num(7.0), was.nan_to_num(7.0))
    work.step()
    twin.step()
    assert work.equals(twin.values())


@each_pass
@pytest.mark.parametrize(("agents", "graph"), [(3, "ring"), (70, "fully_connected")])
def test_skipped_agents_are_mixed_all_the_same(
    method: type[Any], nonfinite_pass: int, agents: int, graph: str, seed: int
) -> None:
    """Like a rate of zero for the agent, which then keeps its momentum, local momentum too."""
    work, twin = (Work(method, seed, agents, topology=graph, nonfinite="skip") for _ in range(2))
    work.step()
    twin.step()
    before = work.values()
    spoiled, rates = torch.ones(agents), torch.full((agents,), 0.02)
    spoiled[1], rates[1] = torch.nan, 0.0
    others = torch.arange(agents) != 1
    work.step(*[torch.ones(agents)] * (nonfinite_pass - 1), spoiled)
    for group in twin.optimizer.param_groups:
        group["lr"] = rates
    twin.step()
    for value, expected in zip(work.values(), twin.values(), strict=True):
        assert value.isfinite().all() and torch.equal(value[others], expected[others])
    for value, expected in zip(work.values()[:2], twin.values()[:2], strict=True):
        assert torch.equal(value[1], expected[1])
    for value, old in zip(work.values()[2:], before[2:], strict=True):
        assert torch.equal(value[1], old[1])
    assert work.optimizer.skipped[1] > 0 and not work.optimizer.skipped[others].any()


@pytest.mark.parametrize(
    ("method", "name"), [(m, "lr") for m in METHODS.values()] + [(m, "rho") for m in SHARP]
)
def test_bad_rates_in_mid_run(method: type[Any], name: str, seed: int) -> None:
    work = Work(method, seed)
    work.step()
    before = work.values()
    work.optimizer.param_groups[1][name] = torch.full((2,), 0.02)
    with pytest.raises(ValueError, match=rf"{name} must be one number or .* got \(2,\)"):
        work.step()
    assert work.equals(before)
    work.optimizer.param_groups[1][name] = 0.02
    work.step()
    assert not work.equals(before)
