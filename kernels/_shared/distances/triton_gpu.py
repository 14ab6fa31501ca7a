"""Squared distances of rows to one row in Triton: those of slices, then a kernel that adds them up, in one order."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT

# partial sums that a program adds at once
SLICES = 256


@triton.jit
def slice_distances(x_ptr, mean, partial_ptr, x_stride, agents, c, inside):
    """Write the distances of columns `c` of all agents' rows to `mean`, float32, behind each other."""
    row_ptr = x_ptr + c
    for _ in range(agents):
        d = tl.load(row_ptr, mask=inside, other=0.0).to(tl.float64) - mean.to(tl.float64)
        tl.store(partial_ptr, tl.sum(d * d, axis=0))
        row_ptr += x_stride
        partial_ptr += 1


@triton.jit
def distances_finish_kernel(
    partial_ptr, squared_distance_ptr, agents, slices, SLICES: tl.constexpr
):
    agent = tl.program_id(0)
    lanes = tl.zeros([SLICES], dtype=tl.float64)
    for first in range(0, slices, SLICES):
        s = first + tl.arange(0, SLICES)
        lanes += tl.load(partial_ptr + s.to(tl.int64) * agents + agent, mask=s < slices, other=0.0)
    tl.store(squared_distance_ptr + agent, tl.sum(lanes, axis=0))


def add_up(partial: torch.Tensor, squared_distance: torch.Tensor) -> None:
    """Sums over the slices of `partial` `[slices, agents]`."""
    slices, agents = partial.shape
    distances_finish_kernel[(agents,)](
        partial, squared_distance, agents, slices, SLICES=SLICES, **EXACT
    )
