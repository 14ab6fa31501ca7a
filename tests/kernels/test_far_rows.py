"""Rows of a stack with more than 2^31 elements are addressed in 64 bits by every op, on every backend.

Rows of 8 GB buffers lie far apart, and only the pages that are touched are there. An offset that was computed in
32 bits ends outside of them. Columns are counted in 32 bits: test_aot.py holds the programs' slices against
MOST_COLUMNS. The `triton` cases run interpreted, as those of tests/kernels/test_ops.py.
"""

import sys
from typing import Any

import pytest
import torch

from fastsaddle.kernels.op import Op, ops, use_backend
from tests.kernels.test_ops import INTERPRETING, fresh, is_rows

BACKEND = "triton" if INTERPRETING else "native"


def shapes(op: Op) -> list[tuple[int, int]]:
    """(agents, columns): buckets larger than a program take other kernels, a compressed step those of 17 agents too."""
    others = [(3, 2080)] if "Tensor buckets" in op.schema else []
    return [(3, 96), *others, *([(17, 96)] if op.name == "choco_step" else [])]


def far(value: torch.Tensor) -> torch.Tensor:
    """A copy whose last row begins at element 2^31 or behind it."""
    rows, columns = value.shape
    stride = -(-(2**31) // (32 * (rows - 1))) * 32
    memory = torch.empty(stride * (rows - 1) + columns, dtype=value.dtype)
    return memory.as_strided((rows, columns), (stride, 1)).copy_(value)


def far_rows(arguments: dict[str, Any]) -> dict[str, Any]:
    return {n: far(v) if is_rows(n, v) else v for n, v in fresh(arguments, "cpu").items()}


@pytest.mark.skipif(sys.platform == "win32", reason="memory is committed when it is asked for")
@pytest.mark.parametrize(
    ("op", "agents", "columns"),
    [
        pytest.param(op, *shape, id=f"{op.name}-{shape[0]}-{shape[1]}-{BACKEND}")
        for op in ops().values()
        if op.rows and BACKEND in op.backends
        for shape in shapes(op)
    ],
)
def test_rows_beyond_32_bits_equal_the_reference(
    op: Op, agents: int, columns: int, seed: int
) -> None:
    if BACKEND in op.unavailable("cpu"):
        pytest.skip(op.unavailable("cpu")[BACKEND])
    examples = op.examples(agents, columns, torch.Generator().manual_seed(seed))
    for variant, arguments in examples.items():
        expected, got = fresh(arguments, "cpu"), far_rows(arguments)
        with use_backend("reference"):
            op(*expected.values())
        with use_backend(BACKEND):
            op(*got.values())
        for name, value in got.items():
            if isinstance(value, torch.Tensor):
                assert op.agrees(name, arguments, value, expected[name]), (variant, name)
