"""sign in Triton: x is read once, by tiles of whole buckets, or by tiles that add up what each gives to its buckets."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.buckets.triton_gpu import (
    MEAN,
    finish,
    halvings,
    partials,
    store_packed,
    store_partials,
    tile_rows,
    tile_shape,
)
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS


@triton.jit(do_not_specialize=["multiplier", "shift"])
def sign_buckets_kernel(
    x_ptr,
    buckets_ptr,
    signs_ptr,
    scales_ptr,
    x_stride,
    agents,
    columns,
    buckets,
    multiplier,
    shift,
    PIECES: tl.constexpr,
    HALVINGS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent, bucket, begin, end = tile_rows(
        buckets_ptr, agents, columns, buckets, multiplier, shift, ROWS, PIECES, HALVINGS
    )
    c = begin[:, None] + tl.arange(0, COLUMNS)[None, :]
    x = tl.load(x_ptr + agent[:, None] * x_stride + c, mask=c < end[:, None], other=0.0)
    store_packed(signs_ptr, (x < 0.0).to(tl.int32), agent, begin, end, columns // 8, 1)
    total = tl.sum(tl.abs(x).to(tl.float64), axis=1)
    elements = tl.load(buckets_ptr + bucket * 2 + 1).to(tl.float64)
    scale = (total / elements).to(tl.float32)
    tl.store(scales_ptr + agent * buckets + bucket, scale, mask=begin < end)


@triton.jit
def sign_tiles_kernel(
    x_ptr,
    buckets_ptr,
    signs_ptr,
    partial_ptr,
    x_stride,
    columns,
    buckets,
    tiles,
    KIND: tl.constexpr,
    HALVINGS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    c = tile * COLUMNS + tl.arange(0, COLUMNS)
    x = tl.load(x_ptr + agent * x_stride + c, mask=c < columns, other=0.0)
    row = tl.full([1], 0, tl.int32)
    store_packed(
        signs_ptr,
        (x < 0.0).to(tl.int32)[None, :],
        row + agent,
        row + tile * COLUMNS,
        row + columns,
        columns // 8,
        1,
    )
    store_partials(
        partial_ptr + agent * (tiles + buckets) + tile,
        x,
        tile * COLUMNS,
        buckets_ptr,
        columns,
        buckets,
        KIND,
        HALVINGS,
        COLUMNS,
    )


def launch(
    x: torch.Tensor, buckets: torch.Tensor, bucket: int, signs: torch.Tensor, scales: torch.Tensor
) -> None:
    agents, columns = x.shape
    programs, divides, shape = tile_shape(agents, columns, buckets, bucket)
    if not shape["PIECES"]:
        sign_buckets_kernel[(programs,)](
            x,
            buckets,
            signs,
            scales,
            x.stride(0),
            agents,
            columns,
            buckets.shape[0],
            *divides,
            **shape,
            **EXACT,
        )
        return
    partial, tiles = partials(x, buckets, MEAN)
    sign_tiles_kernel[(agents * tiles,)](
        x,
        buckets,
        signs,
        partial,
        x.stride(0),
        columns,
        buckets.shape[0],
        tiles,
        KIND=MEAN,
        HALVINGS=halvings(buckets),
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
    finish(partial, buckets, scales, columns, MEAN)
