"""pull_push in Triton: one program takes 1024 columns of one agent; the center's slice is in L2 for the others."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS


@triton.jit
def pull_push_kernel(
    x_ptr,
    center_ptr,
    squared_distance_ptr,
    pull_ptr,
    push_ptr,
    x_stride,
    pull_step,
    push_step,
    agents,
    columns,
    COLUMNS: tl.constexpr,
):
    # agents run fastest, so that a slice of the center is in L2 for all of them
    agent = (tl.program_id(0) % agents).to(tl.int64)
    c = tl.program_id(0) // agents * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < columns
    center = tl.load(center_ptr + c, mask=inside)
    x = tl.load(x_ptr + agent * x_stride + c, mask=inside)
    distance = tl.sqrt(tl.load(squared_distance_ptr + agent)).to(tl.float32)
    # not a maximum: NaN stays NaN
    distance = tl.where(distance < 1e-12, 1e-12, distance)
    push = tl.div_rn(tl.load(push_ptr + agent * push_step), distance)
    factor = (1.0 - tl.load(pull_ptr + agent * pull_step)) + push
    tl.store(x_ptr + agent * x_stride + c, center + factor * (x - center), mask=inside)


def launch(
    x: torch.Tensor,
    center: torch.Tensor,
    squared_distance: torch.Tensor,
    pull: torch.Tensor,
    push: torch.Tensor,
) -> None:
    agents, columns = x.shape
    pull_push_kernel[(agents * triton.cdiv(columns, STREAM_COLUMNS),)](
        x,
        center,
        squared_distance,
        pull,
        push,
        x.stride(0),
        pull.dim(),
        push.dim(),
        agents,
        columns,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
