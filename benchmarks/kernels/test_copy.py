"""The yardstick itself: `copy_` between two buffers, as every other row has it measured beside it."""

import pytest
import torch

from benchmarks.conftest import Measure, scale

SIZES = {"cpu": ((16, 1_000_000),), "cuda": ((16, 2**22),), "tiny": ((5, 300),)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize(("agents", "dim"), SIZES[scale(metafunc.config)])


def test_copy(agents: int, dim: int, measure: Measure, device: str) -> None:
    source = torch.randn(agents, dim, device=device)
    target = torch.full_like(source, float("nan"))
    measure(
        lambda: target.copy_(source),
        moved=2 * agents * dim * 4,
        implementation="copy_",
        agents=agents,
        dim=dim,
        info={"op": "copy", "passes": 2},
    )
    assert torch.equal(source, target)
