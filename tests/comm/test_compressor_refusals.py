"""What compressors refuse, in words that name the rule; and that nothing has changed by then."""

import re
from typing import Any

import pytest
import torch

from fastsaddle.compressors import Identity, RandomK, Sign, StochasticQuantizer, TopK
from fastsaddle.compressors.base import Compressor
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import EXAMPLES, LAYOUT, draws, each_compressor, rows

pytestmark = pytest.mark.usefixtures("one_thread")
NAN, INFINITY = float("nan"), float("inf")
LARGE = 3e38


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (TopK, {"keep": 0.0}, "keep must be in (0, 1], the fraction that is sent, got 0.0"),
        (TopK, {"keep": 1.01}, "keep must be in (0, 1], the fraction that is sent, got 1.01"),
        (RandomK, {"keep": -0.1}, "keep must be in (0, 1], the fraction that is sent, got -0.1"),
        (RandomK, {"keep": NAN}, "keep must be in (0, 1], the fraction that is sent, got nan"),
        (StochasticQuantizer, {"bits": 3}, "bits must be 2, 4 or 8, got 3"),
        (StochasticQuantizer, {"bits": 16}, "bits must be 2, 4 or 8, got 16"),
        (StochasticQuantizer, {"bucket": 0}, "bucket must be None or a multiple of 32, got 0"),
        (StochasticQuantizer, {"bucket": 48}, "bucket must be None or a multiple of 32, got 48"),
        (StochasticQuantizer, {"bucket": -32}, "bucket must be None or a multiple of 32, got -32"),
        (StochasticQuantizer, {"norm": "l1"}, "norm must be one of max, l2, got 'l1'"),
        (StochasticQuantizer, {"levels": 0}, "levels must be in 1..255 for 8 bits, got 0"),
        (StochasticQuantizer, {"bits": 4, "levels": 16}, "levels must be in 1..15 for 4 bits, got 16"),
        (StochasticQuantizer, {"bits": 2, "levels": 4}, "levels must be in 1..3 for 2 bits, got 4"),
    ],
)  # fmt: skip
def test_options_out_of_range(cls: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(**options)


@each_compressor
@pytest.mark.parametrize("place", [(1, 0), (3, 36), (1, 20)], ids=str)
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_what_is_not_finite(
    compressor: Compressor, place: tuple[int, int], value: float, seed: int
) -> None:
    for like in (37, LAYOUT):
        layout = like if isinstance(like, FlatLayout) else None
        x = rows(4, like, seed)
        column = place[1] if layout is None else layout.offsets[1] + place[1]
        x[place[0], column] = value
        refused = (
            rf"only finite values can be compressed, got NaN or infinity in rows \[{place[0]}\]"
        )
        with pytest.raises(ValueError, match=refused):
            compressor.encode(x, seed, layout=layout)
        residual, good = rows(4, like, seed + 1), rows(4, like, seed + 2)
        before = residual.clone()
        with pytest.raises(ValueError, match=refused):
            compressor.compress_ef_(x, residual, seed, layout=layout)
        assert torch.equal(residual, before)
        # a residual that is spoiled stays as it is, too
        before = x.clone()
        with pytest.raises(ValueError, match=refused):
            compressor.compress_ef_(good, x, seed, layout=layout)
        assert torch.equal(x.view(torch.int32), before.view(torch.int32))


@each_compressor
def test_sums_that_leave_float32(compressor: Compressor, seed: int) -> None:
    x, residual = rows(3, 96, seed), rows(3, 96, seed + 1)
    x[1], residual[1] = LARGE, LARGE
    before = residual.clone()
    with pytest.raises(ValueError, match=r"only finite values .* in rows \[1\]"):
        compressor.compress_ef_(x, residual, seed)
    assert torch.equal(residual, before)


@pytest.mark.parametrize(
    "compressor", [c for c in EXAMPLES if not getattr(c, "unbiased", False)], ids=repr
)
def test_large_numbers_are_numbers(compressor: Compressor, seed: int) -> None:
    x = torch.zeros(2, 64)
    x[:, seed % 64], x[1, (seed + 1) % 64] = LARGE, -LARGE / 4
    residual = torch.zeros_like(x)
    decoded = compressor.decode(compressor.encode(x, seed))
    assert decoded.isfinite().all()
    payload = compressor.compress_ef_(x, residual, seed)
    assert torch.equal(residual, x - compressor.decode(payload)) and residual.isfinite().all()


@pytest.mark.parametrize("bucket", [512, None])
def test_a_norm_that_leaves_float32(bucket: int | None, seed: int) -> None:
    quantizer = StochasticQuantizer(8, bucket, "l2", 255)
    x, residual = torch.full((2, 64), LARGE), rows(2, 64, seed)
    x[0] = 1.0
    before = residual.clone()
    with pytest.raises(ValueError, match=r"too large .* overflows in rows \[1\]$"):
        quantizer.encode(x, seed)
    with pytest.raises(ValueError, match=r"too large .* overflows in rows \[1\]$"):
        quantizer.compress_ef_(x, residual, seed)
    assert torch.equal(residual, before)


@each_compressor
@pytest.mark.parametrize(
    ("x", "layout", "message"),
    [
        (torch.ones(3, 0), None, "x must be float32 [agents, columns], not empty, got torch.float32 (3, 0)"),
        (torch.ones(0, 3), None, "x must be float32 [agents, columns], not empty, got torch.float32 (0, 3)"),
        (torch.ones(7), None, "x must be float32 [agents, columns], not empty, got torch.float32 (7,)"),
        (torch.ones(2, 7).double(), None, "not empty, got torch.float64 (2, 7)"),
        (torch.ones(2, 7).half(), None, "not empty, got torch.float16 (2, 7)"),
        (torch.ones(2, 96), LAYOUT, f"x must have the {LAYOUT.stride} columns of its layout, got 96"),
        (torch.ones(2, 128), FlatLayout.pack([[(0,)]]), "a layout must hold at least one element, got none"),
    ],
    ids=["no-columns", "no-agents", "1-d", "float64", "float16", "columns", "empty-layout"],
)  # fmt: skip
def test_rows_that_are_none(
    compressor: Compressor, x: torch.Tensor, layout: FlatLayout | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compressor.encode(x, layout=layout)
    residual = torch.zeros_like(x)
    with pytest.raises(ValueError, match="must"):
        compressor.compress_ef_(x, residual, layout=layout)
    assert not residual.any()


@each_compressor
@pytest.mark.parametrize("columns", [40, 64])
def test_outputs_that_are_shaped_otherwise(compressor: Compressor, columns: int, seed: int) -> None:
    x = rows(3, columns, seed)
    payload = compressor.encode(x, seed)
    for wrong in (
        torch.ones(3, columns - 3),
        torch.ones(3, columns + 24),
        torch.ones(1, columns),
        torch.ones(columns),
        torch.ones(3, columns).double(),
    ):
        shape = f"{{}} must be float32 and shaped like x, (3, {columns}), got {wrong.dtype} {tuple(wrong.shape)}"
        with pytest.raises(ValueError, match=re.escape(shape.format("out"))):
            compressor.decode_add_(payload, wrong)
        with pytest.raises(ValueError, match=re.escape(shape.format("residual"))):
            compressor.compress_ef_(x, wrong, seed)
        assert (wrong == 1).all()
    out = torch.ones(3, columns)
    for weight in (torch.ones(1), torch.ones(2), torch.ones(3, 1)):
        message = f"weight must be a number, 0-d or [agents] = (3,), got {tuple(weight.shape)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            compressor.decode_add_(payload, out, weight)
    assert (out == 1).all()


@pytest.mark.parametrize("compressor", [c for c in EXAMPLES if draws(c)], ids=repr)
def test_what_random_bits_are_indexed_by(compressor: Compressor, seed: int) -> None:
    x = rows(3, 37, seed)
    with pytest.raises(ValueError, match=r"seed must be >= 0, and less than 2\*\*63, got -1"):
        compressor.encode(x, -1)
    # three agents are numbered below 2^32
    for first in (-2, 2**32 - 2):
        with pytest.raises(
            ValueError, match=rf"first_agent must be in 0\.\.4294967293, got {first}"
        ):
            compressor.encode(x, 5, first_agent=first)
    compressor.encode(x, 5, first_agent=2**32 - 3)
    for step in (
        torch.tensor(0.5),
        torch.ones(2).long(),
        torch.ones(3).int(),
        torch.ones(3, 1).long(),
    ):
        wanted = "step must be torch.int64, 0-d or [agents] = (3,) and contiguous, on cpu"
        message = f"{wanted}, got {step.dtype} {tuple(step.shape)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            compressor.encode(x, 5, step)


def test_compressors_do_not_change() -> None:
    for compressor in (Identity(), Sign(), TopK(), RandomK(), StochasticQuantizer()):
        with pytest.raises(AttributeError):
            compressor.keep = 0.5  # type: ignore[misc,union-attr]


@pytest.mark.parametrize("value", [NAN, LARGE])
def test_ten_rows_are_named(value: float) -> None:
    quantizer = StochasticQuantizer(8, None, "l2", 255)
    x = torch.ones(5000, 4)
    x[3:] = value
    named = r"rows \[3, 4, 5, 6, 7, 8, 9, 10, 11, 12\] and 4987 more$"
    with pytest.raises(ValueError, match=named) as refused:
        quantizer.encode(x)
    assert ("overflow" in str(refused.value)) == (value == LARGE)
