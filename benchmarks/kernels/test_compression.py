"""Compression beside what a user would write today, same size and same run: ops through their compressors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import baselines
from benchmarks.conftest import Measure, scale
from fastsaddle.compressors import Compressor, RandomK, Sign, StochasticQuantizer, TopK

SIZES = {"cpu": ((16, 1_000_000),), "cuda": ((16, 2**22),), "tiny": ((5, 320),)}
KEEP = 0.1


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize(("agents", "dim"), SIZES[scale(metafunc.config)])


def kept(x: torch.Tensor) -> int:
    return int(KEEP * x.shape[1])


# what, compressor, the same in eager PyTorch
ENCODERS: dict[str, tuple[Compressor, Callable[[torch.Tensor], Any]]] = {
    "encode, 8 bits": (StochasticQuantizer(8), lambda x: baselines.eager_quantize(x, 8)),
    "encode, 4 bits": (StochasticQuantizer(4), lambda x: baselines.eager_quantize(x, 4)),
    "encode, 2 bits": (StochasticQuantizer(2), lambda x: baselines.eager_quantize(x, 2)),
    "encode, sign": (Sign(), baselines.eager_sign),
    "encode, top-k 10%": (TopK(KEEP), lambda x: baselines.eager_top_k(x, kept(x))),
    "encode, random-k 10%": (RandomK(KEEP), lambda x: baselines.eager_random_k(x, kept(x))),
}


@pytest.mark.parametrize("what", ENCODERS)
@pytest.mark.parametrize("implementation", ["fastsaddle", "eager"])
def test_encode(
    what: str, implementation: str, agents: int, dim: int, measure: Measure, device: str
) -> None:
    compressor, eager = ENCODERS[what]
    x = torch.randn(agents, dim, device=device)
    sent = compressor.encode(x).nbytes
    work = (lambda: eager(x)) if implementation == "eager" else (lambda: compressor.encode(x))
    measure(
        work,
        moved=x.nbytes + sent,
        implementation=implementation,
        agents=agents,
        dim=dim,
        info={"op": what, "payload": sent / x.nbytes},
    )


@pytest.mark.parametrize("implementation", ["fastsaddle", "eager"])
def test_decode(implementation: str, agents: int, dim: int, measure: Measure, device: str) -> None:
    x, out = torch.randn(agents, dim, device=device), torch.randn(agents, dim, device=device)
    compressor = StochasticQuantizer(8)
    payload = compressor.encode(x)
    codes, scales = baselines.eager_quantize(x)
    works = {
        "eager": lambda: baselines.eager_dequantize_add(codes, scales, out),
        "fastsaddle": lambda: compressor.decode_add_(payload, out),
    }
    measure(
        works[implementation],
        moved=2 * x.nbytes + payload.nbytes,
        implementation=implementation,
        agents=agents,
        dim=dim,
        info={"op": "decode and add, 8 bits"},
    )


@pytest.mark.parametrize("implementation", ["fastsaddle", "eager"])
def test_error_feedback(
    implementation: str, agents: int, dim: int, measure: Measure, device: str
) -> None:
    x, residual = torch.randn(agents, dim, device=device), torch.zeros(agents, dim, device=device)
    compressor = StochasticQuantizer(8)
    works = {
        "eager": lambda: baselines.eager_compress_ef(x, residual),
        "fastsaddle": lambda: compressor.compress_ef_(x, residual),
    }
    measure(
        works[implementation],
        moved=3 * x.nbytes + compressor.encode(x).nbytes,
        implementation=implementation,
        agents=agents,
        dim=dim,
        info={"op": "error feedback, 8 bits"},
    )
