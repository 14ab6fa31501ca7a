"""dequantize_add in Triton: one program takes a tile of small buckets, or of pieces of large ones."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.buckets.triton_gpu import load_packed, tile_rows, tile_shape
from fastsaddle.kernels._shared.rows.triton_launch import EXACT


@triton.jit(do_not_specialize=["multiplier", "shift"])
def dequantize_add_kernel(
    codes_ptr,
    scales_ptr,
    signs_ptr,
    buckets_ptr,
    weight_ptr,
    out_ptr,
    codes_stride,
    scales_stride,
    signs_stride,
    out_stride,
    weight_step,
    agents,
    columns,
    buckets,
    multiplier,
    shift,
    BITS: tl.constexpr,
    SIGNS: tl.constexpr,
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
    place = out_ptr + agent[:, None] * out_stride + c
    out = tl.load(place, mask=inside)
    scale = tl.load(scales_ptr + agent * scales_stride + bucket)[:, None]
    value = tl.zeros_like(out) + scale
    if BITS > 1:
        codes = load_packed(codes_ptr, agent, begin, end, codes_stride, BITS, COLUMNS)
        if not SIGNS:
            # the highest bit is the sign
            codes = codes << (32 - BITS) >> (32 - BITS)
        value = codes.to(tl.float32) * scale
    if SIGNS:
        negative = load_packed(signs_ptr, agent, begin, end, signs_stride, 1, COLUMNS)
        value = tl.where(negative > 0, value * -1.0, value)
    added = out + tl.load(weight_ptr + agent * weight_step)[:, None] * value
    # not a mask of the store: it goes by whole pieces, so that accesses stay wide
    table = buckets_ptr + bucket * 2
    element = c < (tl.load(table) + tl.load(table + 1))[:, None]
    tl.store(place, tl.where(element, added, out), mask=inside)


def launch(
    codes: torch.Tensor | None,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    weight: torch.Tensor,
    out: torch.Tensor,
) -> None:
    agents, columns = out.shape
    programs, divides, shape = tile_shape(agents, columns, buckets, bucket)
    fields, planes = signs if codes is None else codes, codes if signs is None else signs
    assert fields is not None and planes is not None
    dequantize_add_kernel[(programs,)](
        fields,
        scales,
        planes,
        buckets,
        weight,
        out,
        fields.stride(0),
        scales.stride(0),
        planes.stride(0),
        out.stride(0),
        weight.dim(),
        agents,
        columns,
        buckets.shape[0],
        *divides,
        BITS=bits,
        SIGNS=signs is not None,
        **shape,
        **EXACT,
    )
