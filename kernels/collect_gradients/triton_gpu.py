"""collect_gradients in Triton: one program takes a slice of one agent's row, whatever parts lie in it."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.squares.reference import SLICE


@triton.jit
def collect_gradients_kernel(
    g_ptr,
    parts,
    starts,
    ends,
    strides,
    squares_ptr,
    g_stride,
    slices,
    SQUARED: tl.constexpr,
    PARTS: tl.constexpr,
    SLICE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // slices).to(tl.int64)
    slice = tl.program_id(0) % slices
    lanes = tl.zeros([COLUMNS], dtype=tl.float64)
    # parts ascend, so that every lane adds up its columns in order
    for k in tl.static_range(PARTS):
        begin = tl.maximum(starts[k], slice * SLICE)
        end = tl.minimum(ends[k], (slice + 1) * SLICE)
        for first in range(begin // COLUMNS * COLUMNS, end, COLUMNS):
            c = first + tl.arange(0, COLUMNS)
            inside = (c >= starts[k]) & (c < ends[k])
            value = tl.load(parts[k] + agent * strides[k] + (c - starts[k]), mask=inside, other=0.0)
            tl.store(g_ptr + agent * g_stride + c, value, mask=inside)
            if SQUARED:
                wide = value.to(tl.float64)
                lanes += wide * wide
    if SQUARED:
        tl.store(squares_ptr + agent * slices + slice, tl.sum(lanes, axis=0))


def launch(
    g: torch.Tensor,
    parts: Sequence[torch.Tensor],
    starts: Sequence[int],
    squares: torch.Tensor | None,
) -> None:
    agents, columns = g.shape
    slices = triton.cdiv(columns, SLICE)
    ends = (start + part.numel() // agents for part, start in zip(parts, starts, strict=True))
    collect_gradients_kernel[(agents * slices,)](
        g,
        tuple(parts),
        tuple(starts),
        tuple(ends),
        tuple(part.stride(0) for part in parts),
        g if squares is None else squares,
        g.stride(0),
        slices,
        SQUARED=squares is not None,
        PARTS=len(parts),
        SLICE=SLICE,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
