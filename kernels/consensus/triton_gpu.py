"""consensus in Triton: one program takes a slice of all agents; a second kernel adds the slices' distances."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.distances.triton_gpu import add_up, slice_distances
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
    target_ptr = partial_ptr + tl.program_id(0).to(tl.int64) * agents
    slice_distances(x_ptr, mean, target_ptr, x_stride, agents, c, inside)


def launch(x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
    agents, columns = x.shape
    slices = triton.cdiv(columns, STREAM_COLUMNS)
    partial = torch.empty(slices, agents, dtype=torch.float64, device=x.device)
    consensus_slices_kernel[(slices,)](
        x, mean, partial, x.stride(0), agents, columns, COLUMNS=STREAM_COLUMNS, **EXACT
    )
    add_up(partial, squared_distance)
