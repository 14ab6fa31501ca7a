"""consensus in Triton: one program takes a slice of all agents; a second kernel adds the slices' distances."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS


@triton.jit
def consensus_slices_kernel(
    x_ptr, mean_ptr, partial_ptr, x_stride, agents, columns, COLUMNS: tl.constexpr
):
    c = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < columns
    total = tl.zeros([COLUMNS], dtype=tl.float64)
    row_ptr = x_ptr + c
    for _ in range(agents):
        total += tl.load(row_ptr, mask=inside, other=0.0).to(tl.float64)
        row_ptr += x_stride
    mean = (total / (tl.zeros_like(total) + agents)).to(tl.float32)
    tl.store(mean_ptr + c, mean, mask=inside)
    # the slice is in L2 by now
    row_ptr = x_ptr + c
    target_ptr = partial_ptr + tl.program_id(0).to(tl.int64) * agents
    for _ in range(agents):
        d = tl.load(row_ptr, mask=inside, other=0.0).to(tl.float64) - mean.to(tl.float64)
        tl.store(target_ptr, tl.sum(d * d, axis=0))
        row_ptr += x_stride
        target_ptr += 1


@triton.jit
def consensus_finish_kernel(
    partial_ptr, squared_distance_ptr, agents, slices, SLICES: tl.constexpr
):
    agent = tl.program_id(0)
    lanes = tl.zeros([SLICES], dtype=tl.float64)
    for first in range(0, slices, SLICES):
        s = first + tl.arange(0, SLICES)
        lanes += tl.load(partial_ptr + s.to(tl.int64) * agents + agent, mask=s < slices, other=0.0)
    tl.store(squared_distance_ptr + agent, tl.sum(lanes, axis=0))


def launch(x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
    agents, columns = x.shape
    slices = triton.cdiv(columns, STREAM_COLUMNS)
    partial = torch.empty(slices, agents, dtype=torch.float64, device=x.device)
    consensus_slices_kernel[(slices,)](
        x, mean, partial, x.stride(0), agents, columns, COLUMNS=STREAM_COLUMNS, **EXACT
    )
    consensus_finish_kernel[(agents,)](
        partial, squared_distance, agents, slices, SLICES=256, **EXACT
    )
