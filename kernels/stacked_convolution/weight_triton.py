"""The gradient of stacked convolutions' weights in Triton: patches times the gradient of the output, over positions.

A program owns a tile `[terms, rows]` of one agent's weights and walks over positions, of all samples or of one part of
them. Parts are there because a convolution of few weights has few tiles: each writes its sum to a scratch, and a second
kernel adds these in order, where torch.sum's would depend on the device. How many there are depends on an agent's
shapes alone, not on the number of agents. Loads of the gradient are vectors where 4 divides the plane, those of patches
scalar, as in `images_triton.py`; a weight's taps lie side by side, so that weights are stored one by one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels.stacked_convolution.images_triton import (
    arithmetic,
    by_agents,
    padded,
    product,
    sources,
    terms_from,
)
from fastsaddle.kernels.stacked_convolution.layers import Geometry


@triton.jit
def weight_gradient_kernel(
    gradient_ptr,
    x_ptr,
    out_ptr,
    gradient_agent,
    x_agent,
    agents,
    batch,
    parts,
    steps,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    GEOMETRY: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    POSITIONS: tl.constexpr,
    TERMS: tl.constexpr,
):
    PLANE: tl.constexpr = OUT_HEIGHT * OUT_WIDTH
    TAPS: tl.constexpr = TALL * WIDE
    row_tiles = tl.cdiv(OUT, ROWS)
    tiles = row_tiles * tl.cdiv(TAPS * CHANNELS, TERMS)
    tile = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles % parts
    agent = (tl.program_id(0) // tiles // parts).to(tl.int64)
    row = tile % row_tiles * ROWS + tl.arange(0, ROWS)[None, :]
    first = tile // row_tiles * TERMS
    k = first + tl.arange(0, TERMS)[:, None]
    tap, channel = terms_from(first, CHANNELS, TERMS)
    total = tl.zeros([TERMS, ROWS], dtype=tl.float32)
    for step in range(steps):
        q = (part * steps + step) * POSITIONS + tl.arange(0, POSITIONS)
        p = q[None, :]
        sample, y, x = (p // PLANE).to(tl.int64), p % PLANE // OUT_WIDTH, p % OUT_WIDTH
        at, inside = sources(y, x, tap, HEIGHT, WIDTH, WIDE, GEOMETRY, False)
        images = x_ptr + agent * x_agent + sample * (CHANNELS * HEIGHT * WIDTH)
        patch = tl.load(
            images + (channel * (HEIGHT * WIDTH) + at),
            mask=inside & (p < batch * PLANE) & (k < TAPS * CHANNELS),
            other=0.0,
        )
        q = q[:, None]
        place = (q // PLANE).to(tl.int64) * (OUT * PLANE) + (row * PLANE + q % PLANE)
        gradient = tl.load(
            gradient_ptr + agent * gradient_agent + place,
            mask=(q < batch * PLANE) & (row < OUT),
            other=0.0,
        )
        total = product(patch, gradient, total, PRECISION, WIDEN)
    place = (part * agents + agent) * (OUT * CHANNELS * TAPS)
    place += (row * CHANNELS + channel) * TAPS + tap
    tl.store(
        out_ptr + place,
        total.to(out_ptr.dtype.element_ty),
        mask=(k < TAPS * CHANNELS) & (row < OUT),
    )


@triton.jit
def sum_of_parts_kernel(parts_ptr, out_ptr, elements, parts, COLUMNS: tl.constexpr):
    c = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    place = parts_ptr + c
    for _ in range(parts):
        total += tl.load(place, mask=c < elements, other=0.0)
        place += elements
    tl.store(out_ptr + c, total.to(out_ptr.dtype.element_ty), mask=c < elements)


def parts_of(positions: int, weights: int, tiles: int, numbers: int) -> int:
    """Into how many parts an agent's positions are split, where it has few tiles: 1 for large weights.

    A part has 1,024 positions or more, an agent 64 programs or fewer by it, and writing and reading the scratch costs
    at most a quarter of reading the images and the gradient, `numbers` of them. A fixed rule, not tuned on a GPU.
    """
    return max(1, min(positions // 1024, 64 // tiles, numbers // (8 * weights)))


def sum_products(gradient: Tensor, x: Tensor, out: Tensor, geometry: Geometry, tf32: bool) -> None:
    """`out [agents, out, channels, *kernel]`, contiguous, from the gradient of the output and the images."""
    gradient, x = by_agents(gradient), by_agents(x)
    agents, batch, rows, height, width = gradient.shape
    positions, weights = batch * height * width, out[0].numel()
    row_tile, term_tile = padded(rows, 16, 64), padded(weights // rows, 16, 64)
    step = padded(positions, 16, 32)
    tiles = triton.cdiv(rows, row_tile) * triton.cdiv(weights // rows, term_tile)
    parts = parts_of(positions, weights, tiles, x[0].numel() + gradient[0].numel())
    target = out if parts == 1 else out.new_empty(parts, *out.shape, dtype=torch.float32)
    weight_gradient_kernel[(agents * parts * tiles,)](
        gradient,
        x,
        target,
        gradient.stride(0),
        x.stride(0),
        agents,
        batch,
        parts,
        triton.cdiv(triton.cdiv(positions, parts), step),
        CHANNELS=x.shape[2],
        HEIGHT=x.shape[3],
        WIDTH=x.shape[4],
        OUT=rows,
        OUT_HEIGHT=height,
        OUT_WIDTH=width,
        TALL=out.shape[3],
        WIDE=out.shape[4],
        GEOMETRY=geometry,
        ROWS=row_tile,
        POSITIONS=step,
        TERMS=term_tile,
        **arithmetic(x.dtype, tf32),
    )
    if parts > 1:
        elements = out.numel()
        sum_of_parts_kernel[(triton.cdiv(elements, STREAM_COLUMNS),)](
            target, out, elements, parts, COLUMNS=STREAM_COLUMNS, **EXACT
        )
