"""sam_perturb in Triton: one program takes 1024 columns of one agent."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.step.triton_gpu import is_finite


@triton.jit
def sam_perturb_kernel(
    x_ptr,
    g_ptr,
    saved_ptr,
    rho_ptr,
    norm_ptr,
    x_stride,
    g_stride,
    saved_stride,
    rho_step,
    columns,
    blocks,
    ADAPTIVE: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ASIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < columns
    x = tl.load(x_ptr + agent * x_stride + c, mask=inside)
    g = tl.load(g_ptr + agent * g_stride + c, mask=inside)
    norm = tl.load(norm_ptr + agent)
    scale = tl.div_rn(tl.load(rho_ptr + agent * rho_step), norm + 1e-12)
    if MAXIMIZE:
        scale = scale * -1.0
    if ADAPTIVE:
        g = (x * x) * g
    moved = tl.where(is_finite(norm), x + scale * g, x)
    if ASIDE:
        tl.store(saved_ptr + agent * saved_stride + c, moved, mask=inside)
    else:
        tl.store(saved_ptr + agent * saved_stride + c, x, mask=inside)
        tl.store(x_ptr + agent * x_stride + c, moved, mask=inside)


def launch(
    x: torch.Tensor,
    g: torch.Tensor,
    saved: torch.Tensor,
    rho: torch.Tensor,
    norm: torch.Tensor,
    adaptive: bool,
    maximize: bool,
    aside: bool = False,
) -> None:
    agents, columns = x.shape
    blocks = triton.cdiv(columns, STREAM_COLUMNS)
    sam_perturb_kernel[(agents * blocks,)](
        x,
        g,
        saved,
        rho,
        norm,
        x.stride(0),
        g.stride(0),
        saved.stride(0),
        rho.dim(),
        columns,
        blocks,
        ADAPTIVE=adaptive,
        MAXIMIZE=maximize,
        ASIDE=aside,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
