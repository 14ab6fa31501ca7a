"""mix_dense in Triton: a tiled matrix product in full float32 (no TF32), or torch's product by the table of shapes."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import FUSED
from fastsaddle.kernels._shared.shapes.table import shape


@triton.jit
def mix_dense_kernel(
    x_ptr,
    W_ptr,
    out_ptr,
    x_stride,
    out_stride,
    agents,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TERMS: tl.constexpr,
):
    # one axis, rows fastest: a column slice stays in L2, and CUDA's other axes end at 65,535
    row_blocks = tl.cdiv(agents, ROWS)
    i = tl.program_id(0) % row_blocks * ROWS + tl.arange(0, ROWS)
    c = (tl.program_id(0) // row_blocks).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(0, agents, TERMS):
        j = first + tl.arange(0, TERMS)
        known = j < agents
        W = tl.load(
            W_ptr + i.to(tl.int64)[:, None] * agents + j[None, :],
            mask=(i < agents)[:, None] & known[None, :],
            other=0.0,
        )
        x = tl.load(
            x_ptr + j.to(tl.int64)[:, None] * x_stride + c[None, :],
            mask=known[:, None] & (c < columns)[None, :],
            other=0.0,
        )
        total = tl.dot(W, x, total, input_precision="ieee")
    tl.store(
        out_ptr + i.to(tl.int64)[:, None] * out_stride + c[None, :],
        total,
        mask=(i < agents)[:, None] & (c < columns)[None, :],
    )


def is_full_precision() -> bool:
    """Whether this process's settings leave torch's float32 products on a GPU whole."""
    try:
        return not torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        # the settings contradict each other, and torch refuses to multiply
        return False


def launch(x: torch.Tensor, W: torch.Tensor, out: torch.Tensor) -> None:
    agents, columns = x.shape
    tile = shape("mix_dense", agents, x.device)
    if tile["torch"] and is_full_precision():
        torch.mm(W, x, out=out)
        return
    rows, width = tile["ROWS"], tile["COLUMNS"]
    mix_dense_kernel[(triton.cdiv(agents, rows) * triton.cdiv(columns, width),)](
        x,
        W,
        out,
        x.stride(0),
        out.stride(0),
        agents,
        columns,
        ROWS=rows,
        COLUMNS=width,
        TERMS=tile["TERMS"],
        num_warps=tile["num_warps"],
        **FUSED,
    )
