"""top_k in Triton: the smallest score that is kept, found exactly, then the kept elements by ascending column.

Tensors of narrow rows lie in registers, several in a program, and the score is found bit by bit. In wider rows one
program takes one tensor: five histograms of seven bits each, then a last reading. All but the first may come from L2.
"""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.buckets.triton_gpu import (
    TILE,
    bucket_span,
    magnitude_bits,
    tile_rows,
)
from fastsaddle.kernels._shared.rows.reciprocal_triton import reciprocal
from fastsaddle.kernels._shared.rows.triton_launch import EXACT

# numbers of a tensor that a program takes at once; more, or digits of more bits, spill, on AMD sooner
SLICE, AMD_SLICE = 4096, 2048


@triton.jit
def choice_draws(seed, agent, step, block):
    """32 random bits for each element of `[ROWS, 4 BLOCKS]`: one Philox block serves four."""
    w0, w1, w2, w3 = tl.philox(
        seed, block, agent.to(tl.int32)[:, None], step.to(tl.int32)[:, None], 1
    )
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(words, (block.shape[0], block.shape[1] * 4))


@triton.jit
def scores_of(x, seed, agent, step, first, RANDOM: tl.constexpr):
    """What `[ROWS, COLUMNS]` elements from column `first` on are chosen by, uint32."""
    if RANDOM:
        blocks = tl.arange(0, x.shape[1] // 4)[None, :]
        return choice_draws(seed, agent, step, (first // 4)[:, None] + blocks)
    return magnitude_bits(x).to(tl.uint32)


@triton.jit
def store_kept(indices_ptr, values_ptr, x, c, kept, place, row, begin, width):
    """Write kept elements and their columns to their places of rows of `width`, from `begin` on."""
    place = begin + place
    kept = kept & (place >= 0) & (place < width)
    tl.store(indices_ptr + row * width + place, c, mask=kept)
    tl.store(values_ptr + row * width + place, x, mask=kept)


@triton.jit(do_not_specialize=["multiplier", "shift", "seed", "first_agent"])
def top_k_rows_kernel(
    x_ptr,
    buckets_ptr,
    counts_ptr,
    ends_ptr,
    step_ptr,
    indices_ptr,
    values_ptr,
    x_stride,
    step_step,
    agents,
    multiplier,
    shift,
    columns,
    tensors,
    width,
    seed,
    first_agent,
    RANDOM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent, tensor, begin, end = tile_rows(
        buckets_ptr, agents, columns, tensors, multiplier, shift, ROWS, False, 0
    )
    c = begin[:, None] + tl.arange(0, COLUMNS)[None, :]
    inside = c < end[:, None]
    x = tl.load(x_ptr + agent[:, None] * x_stride + c, mask=inside, other=0.0)
    step = tl.load(step_ptr + agent * step_step)
    score = scores_of(x, seed, first_agent + agent, step, begin, RANDOM)
    elements = tl.load(buckets_ptr + tensor * 2 + 1)
    inside = inside & (tl.arange(0, COLUMNS)[None, :] < elements[:, None])
    count = tl.load(counts_ptr + tensor)
    # the largest number that enough scores reach
    least = tl.zeros([ROWS], dtype=tl.uint32)
    for n in range(32):
        candidate = least + (tl.full([ROWS], 0x80000000, tl.uint32) >> n)
        reach = tl.sum((inside & (score >= candidate[:, None])).to(tl.int32), axis=1)
        least = tl.where(reach >= count, candidate, least)
    above = inside & (score > least[:, None])
    equal = (inside & (score == least[:, None])).to(tl.int32)
    missing = count - tl.sum(above.to(tl.int32), axis=1)
    kept = above | ((equal > 0) & (tl.cumsum(equal, axis=1) <= missing[:, None]))
    place = tl.cumsum(kept.to(tl.int32), axis=1) - 1
    first = tl.load(ends_ptr + tensor) - count
    store_kept(indices_ptr, values_ptr, x, c, kept, place, agent[:, None], first[:, None], width)


@triton.jit(do_not_specialize=["seed", "first_agent"])
def top_k_tensor_kernel(
    x_ptr,
    buckets_ptr,
    counts_ptr,
    ends_ptr,
    step_ptr,
    indices_ptr,
    values_ptr,
    x_stride,
    step_step,
    columns,
    tensors,
    width,
    seed,
    first_agent,
    RANDOM: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // tensors).to(tl.int64)
    tensor = tl.program_id(0) % tensors
    begin, end = bucket_span(buckets_ptr, tensor, columns)
    last = tl.minimum(end, begin + tl.load(buckets_ptr + tensor * 2 + 1))
    count = tl.load(counts_ptr + tensor)
    row_ptr = x_ptr + agent * x_stride
    row = tl.zeros([1], dtype=tl.int64)
    step = row + tl.load(step_ptr + agent * step_step)
    number = row + first_agent + agent
    # the score's known leading bits, and how many elements are still to be found among those that have them
    least = tl.full([], 0, tl.uint32)
    missing = count
    for n in range(5):
        shift = 28 - 7 * n
        frequency = tl.zeros([128], dtype=tl.int32)
        for first in range(begin, end, COLUMNS):
            c = first + tl.arange(0, COLUMNS)
            x = tl.load(row_ptr + c, mask=c < end, other=0.0)
            score = scores_of(x[None, :], seed, number, step, row.to(tl.int32) + first, RANDOM)
            score = tl.reshape(score, (COLUMNS,))
            among = (c < last) & ((score ^ least) >> shift >> 7 == 0)
            digits = (score >> shift & 127).to(tl.int32)
            frequency += tl.histogram(digits, 128, mask=among)
        # how many have each digit or a larger one
        reach = tl.sum(frequency, axis=0) - tl.cumsum(frequency, axis=0) + frequency
        enough = reach >= missing
        digit = tl.maximum(tl.sum(enough.to(tl.int32), axis=0) - 1, 0)
        missing -= tl.max(tl.where(enough, 0, reach), axis=0)
        least = least | (digit.to(tl.uint32) << shift)
    taken = tl.load(ends_ptr + tensor) - count
    for first in range(begin, end, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        x = tl.load(row_ptr + c, mask=c < end, other=0.0)
        score = scores_of(x[None, :], seed, number, step, row.to(tl.int32) + first, RANDOM)
        score = tl.reshape(score, (COLUMNS,))
        equal = ((score == least) & (c < last)).to(tl.int32)
        kept = (score > least) & (c < last)
        kept = kept | ((equal > 0) & (tl.cumsum(equal, axis=0) <= missing))
        place = tl.cumsum(kept.to(tl.int32), axis=0) - 1
        store_kept(indices_ptr, values_ptr, x, c, kept, place, agent, taken, width)
        missing -= tl.sum(equal, axis=0)
        taken += tl.sum(kept.to(tl.int32), axis=0)


def launch(
    x: torch.Tensor,
    buckets: torch.Tensor,
    counts: torch.Tensor,
    random: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    indices: torch.Tensor,
    values: torch.Tensor,
) -> None:
    agents, columns = x.shape
    tensors = buckets.shape[0]
    ends = counts.cumsum(0, dtype=torch.int32)
    pointers = (x, buckets, counts, ends, step, indices, values, x.stride(0), step.dim())
    numbers = (columns, tensors, indices.shape[1], seed, first_agent)
    if columns <= TILE:
        block = triton.next_power_of_2(columns)
        rows = TILE // block
        top_k_rows_kernel[(triton.cdiv(agents * tensors, rows),)](
            *pointers,
            agents,
            *reciprocal(tensors),
            *numbers,
            RANDOM=random,
            ROWS=rows,
            COLUMNS=block,
            **EXACT,
        )
        return
    slice_ = AMD_SLICE if torch.version.hip else SLICE
    top_k_tensor_kernel[(agents * tensors,)](
        *pointers, *numbers, RANDOM=random, COLUMNS=slice_, num_warps=slice_ // 256, **EXACT
    )
