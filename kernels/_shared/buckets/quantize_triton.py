"""The stochastic quantizer as a Triton kernel, with or without error feedback: quantize and compress_ef.

Buckets of at most a tile are read once; larger ones twice, as their tops must be known first.
"""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.buckets.triton_gpu import (
    large_tops,
    row_tops,
    signed_codes,
    steps_of,
    store_packed,
    tile_rows,
    tile_shape,
)
from fastsaddle.kernels._shared.philox.triton_gpu import ROUNDING, halves
from fastsaddle.kernels._shared.rows.triton_launch import EXACT
from fastsaddle.kernels._shared.shapes.table import shape


@triton.jit(do_not_specialize=["multiplier", "shift", "levels", "seed", "first_agent"])
def quantize_kernel(
    x_ptr,
    residual_ptr,
    buckets_ptr,
    tops_ptr,
    step_ptr,
    codes_ptr,
    scales_ptr,
    signs_ptr,
    x_stride,
    residual_stride,
    step_step,
    agents,
    columns,
    buckets,
    multiplier,
    shift,
    levels,
    seed,
    first_agent,
    BITS: tl.constexpr,
    NORM: tl.constexpr,
    SIGNS: tl.constexpr,
    FEEDBACK: tl.constexpr,
    PIECES: tl.constexpr,
    HALVINGS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent, bucket, begin, end = tile_rows(
        buckets_ptr, agents, columns, buckets, multiplier, shift, ROWS, PIECES, HALVINGS
    )
    c = begin[:, None] + tl.arange(0, COLUMNS)[None, :]
    inside = c < end[:, None]
    v = tl.load(x_ptr + agent[:, None] * x_stride + c, mask=inside, other=0.0)
    residual_place = residual_ptr + agent[:, None] * residual_stride + c
    if FEEDBACK:
        v = v + tl.load(residual_place, mask=inside, other=0.0)
    scale_place = agent * buckets + bucket
    top = tl.load(tops_ptr + scale_place) if PIECES else row_tops(v, NORM)
    inverse, scale = steps_of(top, levels)
    step = tl.load(step_ptr + agent * step_step)
    draws = halves(v, seed, first_agent + agent, step, begin, ROUNDING)
    codes = signed_codes(v, draws, inverse[:, None], levels)
    writes = begin < end
    if PIECES:
        # of a large bucket only the first piece does
        writes = writes & (begin == (tl.load(buckets_ptr + bucket * 2) >> 5) * 32)
    tl.store(scales_ptr + scale_place, scale, mask=writes)
    if SIGNS:
        store_packed(codes_ptr, tl.abs(codes), agent, begin, end, columns * BITS // 8, BITS)
        store_packed(signs_ptr, (codes < 0).to(tl.int32), agent, begin, end, columns // 8, 1)
    else:
        store_packed(
            codes_ptr, codes & ((1 << BITS) - 1), agent, begin, end, columns * BITS // 8, BITS
        )
    if FEEDBACK:
        residual = v - codes.to(tl.float32) * scale[:, None]
        tl.store(residual_place, residual, mask=inside)


def launch_quantize(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    levels: int,
    norm: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    codes: torch.Tensor,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
) -> None:
    """Codes of x, or of x + residual with what they lose in the residual."""
    agents, columns = x.shape
    blocks = shape("quantize", agents, x.device)
    programs, divides, tiles = tile_shape(agents, columns, buckets, bucket, blocks["TILE"])
    tops = large_tops(x, residual, buckets, norm) if tiles["PIECES"] else scales
    quantize_kernel[(programs,)](
        x,
        x if residual is None else residual,
        buckets,
        tops,
        step,
        codes,
        scales,
        codes if signs is None else signs,
        x.stride(0),
        x.stride(0) if residual is None else residual.stride(0),
        step.dim(),
        agents,
        columns,
        buckets.shape[0],
        *divides,
        levels,
        seed,
        first_agent,
        BITS=bits,
        NORM=norm,
        SIGNS=signs is not None,
        FEEDBACK=residual is not None,
        **tiles,
        num_warps=blocks["num_warps"],
        **EXACT,
    )
