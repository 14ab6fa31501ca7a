"""Buckets in Triton: where they lie, their random bits, and their codes in registers; compile without fusion.

A program of the streaming kernels takes a tile of rows. Rows are whole buckets, as many as fit, or pieces of 32 columns
of buckets that are larger than a tile. Tops and sums of those are joined by two kernels of their own: partial ones of
every tile, then one program a bucket.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.buckets.reference import PIECE, TINY
from fastsaddle.kernels._shared.rows.reciprocal_triton import quotient, reciprocal
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.step.triton_gpu import is_finite

# numbers of a program's tile, and the most of a bucket that a program takes whole
TILE = 1024
# numbers that a finishing program adds at once
LANES = 256

# what is joined over a bucket: largest magnitude, Euclidean norm, mean magnitude
MAX, EUCLIDEAN, MEAN = 0, 1, 2

SMALLEST = tl.constexpr(TINY)
FARTHEST = tl.constexpr(2**31 - 1)


@triton.jit
def bucket_at(buckets_ptr, buckets, column, HALVINGS: tl.constexpr):
    """The last bucket that begins at or before each column."""
    found = column * 0
    for n in tl.static_range(HALVINGS):
        candidate = found + (1 << (HALVINGS - 1 - n))
        first = tl.load(buckets_ptr + candidate * 2, mask=candidate < buckets, other=FARTHEST)
        found = tl.where(first <= column, candidate, found)
    return found


@triton.jit
def bucket_span(buckets_ptr, bucket, columns):
    """First column and end of a bucket, padding included; within the row whatever the table says."""
    place = buckets_ptr + bucket * 2
    pieces = columns // 32
    # whole pieces, so that the compiler sees aligned rows
    begin = tl.minimum(tl.maximum(tl.load(place) >> 5, 0), pieces)
    end = tl.minimum(begin + (tl.load(place + 1) + 31 >> 5), pieces)
    return begin * 32, end * 32


@triton.jit
def tile_rows(
    buckets_ptr,
    agents,
    columns,
    buckets,
    multiplier,
    shift,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    HALVINGS: tl.constexpr,
):
    """(agent, bucket, first column, end) of each row of this program's tile; a row that does not exist is empty.

    multiplier and shift are the `reciprocal` of an agent's rows: of its buckets, or its pieces.
    """
    # 32 bits will do: 2^31 pieces are 256 GiB
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if PIECES:
        agent = quotient(number, multiplier, shift)
        begin = (number - agent * (columns // 32)) * 32
        end = begin + 32
        bucket = bucket_at(buckets_ptr, buckets, begin, HALVINGS)
    else:
        agent = quotient(number, multiplier, shift)
        bucket = number - agent * buckets
        begin, end = bucket_span(buckets_ptr, bucket, columns)
    # whole pieces, so that the compiler sees aligned rows
    begin = tl.where(agent < agents, begin >> 5, columns // 32) * 32
    return tl.minimum(agent, agents - 1).to(tl.int64), bucket, begin, end


@triton.jit
def magnitude_bits(x):
    """|x| as a whole number, where NaN is larger than infinity and that than all others."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def row_tops(x, NORM: tl.constexpr):
    """Largest magnitude (0) or Euclidean norm (1) of each row."""
    if NORM == 0:
        return tl.max(magnitude_bits(x), axis=1).to(tl.float32, bitcast=True)
    wide = x.to(tl.float64)
    return tl.sqrt(tl.sum(wide * wide, axis=1)).to(tl.float32)


@triton.jit
def steps_of(top, levels):
    """(levels / top, top / levels): zeros for a top too small for a scale; NaN for one that is not finite."""
    usable = (top >= SMALLEST) & is_finite(top)
    divisor = tl.where(usable, top, 1.0)
    count = tl.zeros_like(top) + levels
    # a top less itself is zero, or NaN
    unusable = top - top
    inverse = tl.where(usable, tl.div_rn(count, divisor), unusable)
    return inverse, tl.where(usable, tl.div_rn(divisor, count), unusable)


@triton.jit
def signed_codes(x, draws, inverse, levels):
    """Stochastically rounded codes with the signs of x, int32; zeros where the bucket is not finite."""
    u = (draws.to(tl.float32) + 0.5) * 0.0000152587890625
    code = tl.where(is_finite(inverse), tl.abs(x) * inverse + u, 0.0)
    # no number is negative, so that the conversion rounds down
    code = tl.minimum(code.to(tl.int32), levels)
    return tl.where(x.to(tl.int32, bitcast=True) < 0, 0 - code, code)


@triton.jit
def store_packed(ptr, fields, agent, begin, end, row_bytes, BITS: tl.constexpr):
    """Write non-negative numbers below 2^BITS, `[ROWS, COLUMNS]`, as bytes; the first lies in the lowest bits.

    Agents' rows of bytes lie `row_bytes` apart.
    """
    EACH: tl.constexpr = 8 // BITS
    WIDTH: tl.constexpr = fields.shape[1] // EACH
    if EACH > 1:
        parts = tl.reshape(fields, (fields.shape[0], WIDTH, EACH))
        fields = tl.sum(parts << (tl.arange(0, EACH) * BITS)[None, None, :], axis=2)
    place = (begin // EACH)[:, None] + tl.arange(0, WIDTH)[None, :]
    row = agent * row_bytes
    tl.store(ptr + row[:, None] + place, fields.to(tl.uint8), mask=place < (end // EACH)[:, None])


@triton.jit
def load_packed(ptr, agent, begin, end, row_bytes, BITS: tl.constexpr, COLUMNS: tl.constexpr):
    """The inverse of `store_packed`, int32."""
    EACH: tl.constexpr = 8 // BITS
    WIDTH: tl.constexpr = COLUMNS // EACH
    place = (begin // EACH)[:, None] + tl.arange(0, WIDTH)[None, :]
    row = agent * row_bytes
    packed = tl.load(ptr + row[:, None] + place, mask=place < (end // EACH)[:, None], other=0)
    fields = packed.to(tl.int32)
    if EACH > 1:
        places = (tl.arange(0, EACH) * BITS)[None, None, :]
        fields = (fields[:, :, None] >> places) & ((1 << BITS) - 1)
        fields = tl.reshape(fields, (packed.shape[0], COLUMNS))
    return fields


@triton.jit
def store_partials(
    partial_ptr,
    x,
    first,
    buckets_ptr,
    columns,
    buckets,
    KIND: tl.constexpr,
    HALVINGS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What a tile from column `first` on adds to each of its buckets, at `partial_ptr` + bucket."""
    if KIND == 0:
        terms = magnitude_bits(x)
    elif KIND == 1:
        terms = x.to(tl.float64) * x.to(tl.float64)
    else:
        terms = tl.abs(x).to(tl.float64)
    c = first + tl.arange(0, COLUMNS)
    low = bucket_at(buckets_ptr, buckets, first, HALVINGS)
    high = bucket_at(buckets_ptr, buckets, tl.minimum(first + COLUMNS - 1, columns - 1), HALVINGS)
    for bucket in range(low, high + 1):
        begin, end = bucket_span(buckets_ptr, bucket, columns)
        mine = tl.where((c >= begin) & (c < end), terms, tl.zeros_like(terms))
        if KIND == 0:
            tl.store(partial_ptr + bucket, tl.max(mine, axis=0))
        else:
            tl.store(partial_ptr + bucket, tl.sum(mine, axis=0))


@triton.jit
def bucket_tiles_kernel(
    x_ptr,
    residual_ptr,
    buckets_ptr,
    partial_ptr,
    x_stride,
    residual_stride,
    columns,
    buckets,
    tiles,
    KIND: tl.constexpr,
    FEEDBACK: tl.constexpr,
    HALVINGS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    c = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = c < columns
    x = tl.load(x_ptr + agent * x_stride + c, mask=inside, other=0.0)
    if FEEDBACK:
        x = x + tl.load(residual_ptr + agent * residual_stride + c, mask=inside, other=0.0)
    # a tile and a bucket that meet have a place of their own, as both only grow
    place = partial_ptr + agent * (tiles + buckets) + tile
    store_partials(place, x, tile * COLUMNS, buckets_ptr, columns, buckets, KIND, HALVINGS, COLUMNS)


@triton.jit
def bucket_finish_kernel(
    partial_ptr,
    buckets_ptr,
    result_ptr,
    columns,
    buckets,
    tiles,
    KIND: tl.constexpr,
    TILE: tl.constexpr,
    LANES: tl.constexpr,
):
    agent = (tl.program_id(0) // buckets).to(tl.int64)
    bucket = tl.program_id(0) % buckets
    begin, end = bucket_span(buckets_ptr, bucket, columns)
    place = partial_ptr + agent * (tiles + buckets) + bucket
    lanes = tl.zeros([LANES], dtype=partial_ptr.dtype.element_ty)
    for tile in range(begin // TILE, tl.cdiv(end, TILE), LANES):
        t = tile + tl.arange(0, LANES)
        part = tl.load(place + t, mask=t < tl.cdiv(end, TILE), other=0)
        lanes = tl.maximum(lanes, part) if KIND == 0 else lanes + part
    if KIND == 0:
        result = tl.max(lanes, axis=0).to(tl.float32, bitcast=True)
    elif KIND == 1:
        result = tl.sqrt(tl.sum(lanes, axis=0)).to(tl.float32)
    else:
        elements = tl.load(buckets_ptr + bucket * 2 + 1)
        result = (tl.sum(lanes, axis=0) / elements.to(tl.float64)).to(tl.float32)
    tl.store(result_ptr + agent * buckets + bucket, result)


def halvings(buckets: torch.Tensor) -> int:
    """How often a table is halved until one bucket is left."""
    return (buckets.shape[0] - 1).bit_length()


def partials(x: torch.Tensor, buckets: torch.Tensor, kind: int) -> tuple[torch.Tensor, int]:
    """(scratch for what tiles add to buckets, number of tiles of a row)."""
    tiles = triton.cdiv(x.shape[1], STREAM_COLUMNS)
    dtype = torch.int32 if kind == MAX else torch.float64
    shape = (x.shape[0], tiles + buckets.shape[0])
    return torch.empty(shape, dtype=dtype, device=x.device), tiles


def finish(
    partial: torch.Tensor, buckets: torch.Tensor, result: torch.Tensor, columns: int, kind: int
) -> None:
    """result `[agents, buckets]`: what tiles left in `partial`, joined."""
    agents, width = result.shape
    bucket_finish_kernel[(agents * width,)](
        partial,
        buckets,
        result,
        columns,
        width,
        partial.shape[1] - width,
        KIND=kind,
        TILE=STREAM_COLUMNS,
        LANES=LANES,
        **EXACT,
    )


def large_tops(
    x: torch.Tensor, residual: torch.Tensor | None, buckets: torch.Tensor, norm: int
) -> torch.Tensor:
    """Tops of buckets that many programs share, float32 `[agents, buckets]`, of x or of x + residual."""
    agents, columns = x.shape
    partial, tiles = partials(x, buckets, norm)
    tops = torch.empty(agents, buckets.shape[0], dtype=torch.float32, device=x.device)
    bucket_tiles_kernel[(agents * tiles,)](
        x,
        x if residual is None else residual,
        buckets,
        partial,
        x.stride(0),
        x.stride(0) if residual is None else residual.stride(0),
        columns,
        buckets.shape[0],
        tiles,
        KIND=norm,
        FEEDBACK=residual is not None,
        HALVINGS=halvings(buckets),
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
    finish(partial, buckets, tops, columns, norm)
    return tops


def tile_shape(
    agents: int, columns: int, buckets: torch.Tensor, bucket: int, tile: int = TILE
) -> tuple[int, tuple[int, int], dict[str, Any]]:
    """(programs, the reciprocal that `tile_rows` takes, shape of their tiles): whole buckets, or pieces of large ones.

    Args:
        agents, columns: of the rows. buckets, bucket: their table, and the size of the largest.
        tile: numbers of a program, but where a bucket is more.
    """
    pieces = bucket > TILE
    width = PIECE if pieces else max(PIECE, triton.next_power_of_2(bucket))
    rows = max(1, tile // width)
    of_an_agent = columns // PIECE if pieces else buckets.shape[0]
    shape = {"ROWS": rows, "COLUMNS": width, "PIECES": pieces}
    return (
        triton.cdiv(agents * of_an_agent, rows),
        reciprocal(of_an_agent),
        {**shape, "HALVINGS": halvings(buckets) if pieces else 0},
    )
