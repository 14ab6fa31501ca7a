"""sign in Triton: one program takes a slice of one agent, its signs and what it adds to each bucket; x is read once."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._buckets_triton import MEAN, finish, halvings, partials, store_partials
from fastsaddle.kernels._triton_launch import EXACT, STREAM_COLUMNS


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
    bits = tl.reshape((x < 0.0).to(tl.int32), (COLUMNS // 8, 8)) << tl.arange(0, 8)[None, :]
    b = tile * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8)
    place = signs_ptr + agent * (columns // 8) + b
    tl.store(place, tl.sum(bits, axis=1).to(tl.uint8), mask=b < columns // 8)
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
