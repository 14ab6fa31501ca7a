"""Kernels that a GPU is sent in one optimizer step outside the closures, and whether the host waits for it."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from benchmarks.conftest import kind
from benchmarks.steps.test_optimizer_step import OPTIMIZERS, RATES, agents_and_gradients, whole_step

STEPS = 4
# within and beyond what one program of the fused step holds
AGENTS, DIM = (16, 1024), 4096
METHODS = ("DSGD", "DSGDm", "QGM", "DSADDLe", "QSADDLe", "Comp QGM", "Comp QSADDLe")


@pytest.mark.parametrize("agents", AGENTS)
@pytest.mark.parametrize("name", METHODS)
def test_launches(
    name: str, agents: int, benchmark: Any, device: str, request: pytest.FixtureRequest
) -> None:
    if kind(request.config) == "cpu":
        pytest.skip("counts CUDA kernels: needs a GPU")
    method, _ = OPTIMIZERS[name]
    p, gradient = agents_and_gradients(agents, DIM, device)
    optimizer = method([p], topology="ring", **RATES)
    assert p.grad is not None
    p.grad.copy_(gradient)
    step = whole_step(optimizer)
    # the first steps compile kernels, the first profile loads its library
    for _ in range(2):
        device_work(step, 1)
    launches, copies = device_work(step, STEPS)
    benchmark.pedantic(step, rounds=5)
    benchmark.extra_info.update(
        method=name,
        implementation="fastsaddle",
        launches=launches,
        copies=copies,
        waits=waits(step),
        agents=agents,
        dim=DIM,
        device=device,
    )
    assert launches > 0


def device_work(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """Kernels, and copies and fills, that the device did for one step; the mean of `steps`."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    kernels, copies = counted(profile.events() or ())
    return kernels / steps, copies / steps


def counted(events: Iterable[Any]) -> tuple[int, int]:
    """(kernels, copies and fills by the copy engine) among a profile's events."""
    on_device = [e for e in events if e.device_type.name == "CUDA"]
    names = [e.name for e in on_device if not e.is_user_annotation]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return len(names) - copies, copies


def waits(step: Callable[[], None]) -> int:
    """How often one step makes the host wait for the device, as torch's own watch on it sees."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)
