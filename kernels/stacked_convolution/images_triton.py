"""Implicit-GEMM convolution of stacked agents in Triton: the output, and the gradient of the input.

Both multiply an agent's weights `[rows, terms]` with patches `[terms, positions]` that are never laid out: a tile loads
its numbers from the images, from memory for the first tap and from caches for the others. Terms are the kernel's taps
times the channels that are summed over, channels fastest. For the gradient of the input channels and outputs swap
roles, and positions that a stride left out are masked: with stride 2 three quarters of its products are with zeros.

Tiles of one agent follow each other, those of the same positions next, so that they share L2. Loads of patches are
scalar, lanes side by side: taps shift them off any alignment. Weights are copied to `[rows, taps, channels]`, little
beside the images, so that their loads are vectors where 4 divides the terms; stores are where 4 divides the plane.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastsaddle.kernels._shared.rows.triton_launch import FUSED
from fastsaddle.kernels.op import interpreting
from fastsaddle.kernels.stacked_convolution.layers import Geometry


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """`total + a b` in float32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def terms_from(first, CHANNELS: tl.constexpr, TERMS: tl.constexpr):
    """Tap and channel `[TERMS, 1]` of the terms from `first` on; the tap is a scalar where they share it."""
    k = tl.arange(0, TERMS)[:, None]
    if CHANNELS % TERMS == 0:
        tap, channel = first // CHANNELS, first % CHANNELS + k
    else:
        tap, channel = (first + k) // CHANNELS, (first + k) % CHANNELS
    return tap, channel


@triton.jit
def sources(
    y,
    x,
    tap,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
    G: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):
    """Where in a plane `[HEIGHT, WIDTH]` a tap finds the factor of positions (y, x), and whether there is one."""
    down = tap // WIDE * G.dilation[0] - G.padding[0]
    right = tap % WIDE * G.dilation[1] - G.padding[1]
    if TRANSPOSED:
        down, right = y - down, x - right
        source_y, source_x = down // G.stride[0], right // G.stride[1]
        inside = (down >= 0) & (source_y < HEIGHT) & (right >= 0) & (source_x < WIDTH)
        # a stride of 1 leaves nothing out
        inside &= (down % G.stride[0] == 0) & (right % G.stride[1] == 0)
    else:
        source_y, source_x = y * G.stride[0] + down, x * G.stride[1] + right
        inside = (source_y >= 0) & (source_y < HEIGHT) & (source_x >= 0) & (source_x < WIDTH)
    return source_y * WIDTH + source_x, inside


@triton.jit
def convolution_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    x_agent,
    weight_agent,
    bias_agent,
    batch,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    GEOMETRY: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    POSITIONS: tl.constexpr,
    TERMS: tl.constexpr,
):
    PLANE: tl.constexpr = OUT_HEIGHT * OUT_WIDTH
    TAPS: tl.constexpr = TALL * WIDE
    row_tiles = tl.cdiv(OUT, ROWS)
    tiles = tl.cdiv(batch * PLANE, POSITIONS)
    tile = tl.program_id(0) // row_tiles % tiles
    agent = (tl.program_id(0) // row_tiles // tiles).to(tl.int64)
    row = tl.program_id(0) % row_tiles * ROWS + tl.arange(0, ROWS)
    p = tile * POSITIONS + tl.arange(0, POSITIONS)[None, :]
    known = p < batch * PLANE
    sample, y, x = (p // PLANE).to(tl.int64), p % PLANE // OUT_WIDTH, p % OUT_WIDTH
    images = x_ptr + agent * x_agent + sample * (CHANNELS * HEIGHT * WIDTH)
    total = tl.zeros([ROWS, POSITIONS], dtype=tl.float32)
    for first in range(0, TAPS * CHANNELS, TERMS):
        k = first + tl.arange(0, TERMS)[:, None]
        tap, channel = terms_from(first, CHANNELS, TERMS)
        at, inside = sources(y, x, tap, HEIGHT, WIDTH, WIDE, GEOMETRY, TRANSPOSED)
        patch = tl.load(
            images + (channel * (HEIGHT * WIDTH) + at),
            mask=inside & known & (k < TAPS * CHANNELS),
            other=0.0,
        )
        weight = tl.load(
            weight_ptr + agent * weight_agent + (row[None, :] * (TAPS * CHANNELS) + k),
            mask=(k < TAPS * CHANNELS) & (row < OUT)[None, :],
            other=0.0,
        )
        total = product(tl.trans(weight), patch, total, PRECISION, WIDEN)
    row = row[:, None]
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + agent * bias_agent + row, mask=row < OUT, other=0.0)
        total += bias.to(tl.float32)
    place = (agent * batch + sample) * (OUT * PLANE) + (row * PLANE + p % PLANE)
    # with an axis more: where shapes agree, loads of patches take the layout of stores, 16 bytes a lane
    tl.store(
        (out_ptr + place)[None, :, :],
        total.to(out_ptr.dtype.element_ty)[None, :, :],
        mask=((row < OUT) & known)[None, :, :],
    )


def by_agents(t: Tensor) -> Tensor:
    """The tensor, or a copy where an agent's part is not contiguous."""
    return t if t[0].is_contiguous() else t.contiguous()


def arithmetic(dtype: torch.dtype, tf32: bool) -> dict[str, Any]:
    """How tiles are multiplied, and what launches share.

    Triton's interpreter multiplies the bits of bfloat16 numbers: there they are widened before, which is exact.
    """
    widen = dtype == torch.bfloat16 and interpreting()
    is_full = dtype == torch.float32 and not tf32
    return {"PRECISION": "ieee" if is_full else "tf32", "WIDEN": widen, **FUSED}


def padded(size: int, least: int, most: int) -> int:
    """The power of two that a tile of at most `most` takes for `size` numbers."""
    return min(max(least, triton.next_power_of_2(size)), most)


def tile_shape(rows: int, positions: int, channels: int, in_full: bool) -> dict[str, int]:
    """Block shape of a program, by shapes of one agent alone. A fixed rule, not tuned on a GPU.

    Rows: 16 is the matrix units' least, and all up to 64 outputs share the patch that is loaded. Positions: 128 of them
    are 4 warps' lanes; small images take fewer. Terms: 16 divide the channels of most networks, so that a tile has one
    tap, whose bounds are found once for all channels. Matrix units take 32 where these divide too; in full float32 a
    thread holds its strip of factors in registers, which 32 terms would spill.
    """
    return {
        "ROWS": padded(rows, 16, 64),
        "POSITIONS": padded(positions, 16, 128),
        "TERMS": 16 if in_full or channels % 32 else 32,
    }


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    geometry: Geometry,
    transposed: bool,
    tf32: bool,
) -> None:
    """`out` of images `x`; transposed: `out` is the gradient of the images and `x` that of the output."""
    agents, batch, rows, height, width = out.shape
    channels, positions = x.shape[2], batch * height * width
    tall, wide = weight.shape[3:]
    x = by_agents(x)
    weight = weight.transpose(1, 2) if transposed else weight
    # [agents, rows, taps, channels]
    weight = by_agents(weight.flatten(3).mT)
    bias = None if bias is None else by_agents(bias)
    how = arithmetic(x.dtype, tf32)
    tile = tile_shape(rows, positions, channels, how["PRECISION"] == "ieee")
    programs = triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(positions, tile["POSITIONS"])
    convolution_kernel[(agents * programs,)](
        x,
        weight,
        bias,
        out,
        x.stride(0),
        weight.stride(0),
        0 if bias is None else bias.stride(0),
        batch,
        CHANNELS=channels,
        HEIGHT=x.shape[3],
        WIDTH=x.shape[4],
        OUT=rows,
        OUT_HEIGHT=height,
        OUT_WIDTH=width,
        TALL=tall,
        WIDE=wide,
        GEOMETRY=geometry,
        TRANSPOSED=transposed,
        **tile,
        **how,
    )
