"""Gradients as autograd hands them out, of ResNet-20's 59 tensors, into the flat buffer and to norms.

`collect_gradients` and `norm_of_squares`, beside copies of one tensor after the other and `agent_norm`.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from benchmarks.conftest import Measure, kind, scale
from fastsaddle.kernels.agent_norm import agent_norm
from fastsaddle.kernels.collect_gradients import collect_gradients
from fastsaddle.kernels.norm_of_squares import norm_of_squares
from fastsaddle.kernels.op import use_backend
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.squares import empty_sums

AGENTS = {"cpu": 16, "cuda": 256, "tiny": 3}
# input and output channels of its 19 convolutions, each with a normalization
STAGES = (3, *[16] * 7, *[32] * 6, *[64] * 6)
CONVOLUTIONS = [(wide, narrow, 3, 3) for narrow, wide in pairwise(STAGES)]
SHAPES = [s for c in CONVOLUTIONS for s in (c, c[:1], c[:1])] + [(10, 64), (10,)]
TINY = [(3, 5), (40,), (7, 2)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    absent = collect_gradients.unavailable(kind(metafunc.config))
    able = [b for b in ("native", "triton", "reference") if b not in absent]
    metafunc.parametrize("implementation", [*able, "one by one"])


def test_collect(
    implementation: str, measure: Measure, device: str, request: pytest.FixtureRequest
) -> None:
    size = scale(request.config)
    agents, shapes = AGENTS[size], TINY if size == "tiny" else SHAPES
    layout = FlatLayout.pack([shapes])
    g = layout.allocate(agents, torch.device(device))
    views = layout.views(g)
    parts = [torch.randn(agents, *shape, device=device) for shape in shapes]
    sums, norm = empty_sums(g), torch.empty(agents, device=device)
    skipped = torch.zeros(agents, dtype=torch.int32, device=device)

    def together() -> None:
        collect_gradients(g, parts, list(layout.offsets), sums)
        norm_of_squares(sums, None, norm, skipped)

    def apart() -> None:
        for view, part in zip(views, parts, strict=True):
            view.copy_(part)
        agent_norm(g, None, None, norm, skipped)

    found = norms(together, norm), norms(apart, norm)
    assert torch.allclose(*found, rtol=2.0**-22, atol=0)
    is_apart = implementation == "one by one"
    with torch.no_grad(), use_backend(None if is_apart else implementation):
        measure(
            apart if is_apart else together,
            moved=(3 if is_apart else 2) * agents * layout.dim * 4,
            implementation=implementation,
            agents=agents,
            dim=layout.dim,
            info={"op": "collect_gradients and norms", "passes": 3 if is_apart else 2},
        )


def norms(work: Callable[[], None], norm: torch.Tensor) -> torch.Tensor:
    """The norms that `work` leaves."""
    with torch.no_grad():
        work()
    return norm.clone()
