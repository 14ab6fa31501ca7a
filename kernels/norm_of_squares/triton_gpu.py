"""norm_of_squares in Triton: one program an agent."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT
from fastsaddle.kernels._shared.squares.triton_gpu import LANES, tell_norm


@triton.jit
def norm_of_squares_kernel(
    squares_ptr,
    gate_ptr,
    norm_ptr,
    skipped_ptr,
    slices,
    GATED: tl.constexpr,
    LANES: tl.constexpr,
):
    agent = tl.program_id(0).to(tl.int64)
    tell_norm(squares_ptr, gate_ptr, norm_ptr, skipped_ptr, agent, slices, GATED, LANES)


def launch(
    squares: torch.Tensor, gate: torch.Tensor | None, norm: torch.Tensor, skipped: torch.Tensor
) -> None:
    agents, slices = squares.shape
    norm_of_squares_kernel[(agents,)](
        squares,
        norm if gate is None else gate,
        norm,
        skipped,
        slices,
        GATED=gate is not None,
        LANES=LANES,
        **EXACT,
    )
