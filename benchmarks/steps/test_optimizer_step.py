"""The whole optimizer step outside the closures, against what a user would write today."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from benchmarks import baselines
from benchmarks.conftest import Measure, scale
from fastsaddle.gradients.base import AtRows
from fastsaddle.kernels.collect_gradients import collect_gradients
from fastsaddle.optimizer.squares import Squares, empty_sums

SIZES = {
    "cpu": ((16, 1_000_000), (16, 100_000)),
    "cuda": ((16, 2**22), (256, 2**18)),
    "tiny": ((5, 300),),
}
RATES = {"lr": baselines.LR, "weight_decay": baselines.WEIGHT_DECAY}
EIGHT_BITS = fs.compressors.StochasticQuantizer(8)
# passes over a [agents, dim] buffer, one of them (two for SADDLe: the norm is needed anyway) to refuse NaN
OPTIMIZERS: dict[str, tuple[Callable[..., Any], int]] = {
    "DSGD": (fs.DSGD, 4),
    "DSGDm": (fs.DSGDm, 6),
    "QGM": (fs.QGM, 6),
    "DSADDLe": (fs.DSADDLe, 9),
    "QSADDLe": (fs.QSADDLe, 11),
    # as the simulator's engines take it: models aside, squares added up where gradients are written
    "QSADDLe, engine": (fs.QSADDLe, 8),
    "Comp QGM": (partial(fs.QGM, compressor=EIGHT_BITS), 8),
    "Comp QSADDLe": (partial(fs.QSADDLe, compressor=EIGHT_BITS), 13),
    # eager between the ops: what a fused step would have to move
    "GradientTracking": (fs.GradientTracking, 10),
    "MomentumTracking": (fs.MomentumTracking, 8),
    "D2": (partial(fs.D2, consensus_step=0.5), 8),
    # synchronizing in every step
    "LocalSGD": (partial(fs.LocalSGD, period=1), 9),
    "DPPF": (partial(fs.DPPF, period=1), 9),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    sizes = SIZES[scale(metafunc.config)]
    # what one would write today is slow: the first size tells
    is_baseline = metafunc.function is test_qgm_baseline
    metafunc.parametrize(("agents", "dim"), sizes[:1] if is_baseline else sizes)


def agents_and_gradients(agents: int, dim: int, device: str) -> tuple[nn.Parameter, torch.Tensor]:
    return (
        nn.Parameter(torch.randn(agents, dim, device=device)),
        1e-2 * torch.randn(agents, dim, device=device),
    )


def whole_step(optimizer: Any) -> Callable[[], None]:
    """A step outside the closures: the ascent, where the method has one, and the descent with gossip."""

    def step() -> None:
        if isinstance(optimizer.gradient, fs.gradients.SAM):
            optimizer.perturb()
        optimizer.step()

    return step


def engine_step(optimizer: Any) -> Callable[[], None]:
    """The same where an engine has written the gradients, and added up their squares."""
    rows = optimizer.rows
    sums = empty_sums(rows.g)
    parts, starts = rows.parts(rows.g.clone()), list(rows.layout.offsets)
    collect_gradients(rows.g, parts, starts, sums)

    def closure() -> torch.Tensor:
        rows.squares = Squares(rows.g, sums)
        return sums

    return lambda: optimizer.step(AtRows(closure))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_step(name: str, agents: int, dim: int, measure: Measure, device: str) -> None:
    method, passes = OPTIMIZERS[name]
    p, gradient = agents_and_gradients(agents, dim, device)
    talk = {"agents": agents} if name in ("LocalSGD", "DPPF") else {"topology": "ring"}
    optimizer = method([p], **talk, **RATES)
    p.grad.copy_(gradient)
    measure(
        (engine_step if "engine" in name else whole_step)(optimizer),
        moved=passes * agents * dim * 4,
        implementation="fastsaddle",
        agents=agents,
        dim=dim,
        info={"method": name, "passes": passes},
    )
    twin = nn.Parameter(p.detach().clone())
    slow = method([twin], **talk, backend="reference", **RATES)
    slow.load_state_dict(optimizer.state_dict())
    twin.grad.copy_(p.grad)
    for each in (optimizer, slow):
        whole_step(each)()
    # norms may differ in the last place, SAM and DPPF divide by them, and a code may then be the next
    allowed = 1e-6 if isinstance(optimizer.gradient, fs.gradients.SAM) or name == "DPPF" else 0.0
    level = float(optimizer.squares[:, 0].max().sqrt()) / 127
    assert (twin - p).abs().max() <= allowed + (2 * level if allowed else 0.0)


BASELINES = (
    *("eager, dense W", "eager, shifted rows", "torch._foreach", "torch.compile"),
    "eager, compressed",
)


def baseline(name: str, x: torch.Tensor, g: torch.Tensor) -> Callable[[], None]:
    """One QGM step in place on `x`, written as a user would."""
    momentum = torch.zeros_like(x)
    if name == "eager, compressed":
        x_hat = torch.zeros_like(x)
        return lambda: baselines.eager_choco_qgm(x, g, momentum, x_hat)
    if name == "eager, dense W":
        W = fs.topology.ring(len(x)).W.float().to(x.device)
        return lambda: baselines.eager_qgm(x, g, momentum, W)
    if name == "torch._foreach":
        rows = [list(t.unbind()) for t in (x, g, momentum)]
        return lambda: baselines.foreach_qgm(*rows)
    update = baselines.ring_qgm
    if name == "torch.compile":
        torch.compiler.reset()
        update = baselines.compiled(update)
    return lambda: update(x, g, momentum)


@pytest.mark.parametrize("name", BASELINES)
def test_qgm_baseline(name: str, agents: int, dim: int, measure: Measure, device: str) -> None:
    p, g = agents_and_gradients(agents, dim, device)
    x = p.detach().clone()
    is_compressed = name == "eager, compressed"
    optimizer = fs.QGM(
        [p], topology="ring", compressor=EIGHT_BITS if is_compressed else None, **RATES
    )
    p.grad.copy_(g)
    step = baseline(name, x, g)
    for _ in range(2):
        step()
        optimizer.step()
    # compressed ones draw otherwise: they lose as much, in other places
    lost = 4 * float(optimizer.squares[:, 0].max().sqrt()) / 127
    assert torch.allclose(x, p.detach(), rtol=0, atol=1e-5 + lost)
    passes = 7 if is_compressed else 5
    measure(
        step,
        moved=passes * agents * dim * 4,
        implementation=name,
        agents=agents,
        dim=dim,
        info={"method": "Comp QGM" if is_compressed else "QGM", "passes": passes},
    )
