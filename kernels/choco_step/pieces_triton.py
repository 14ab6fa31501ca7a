"""choco_step for a bucket of all agents: a program takes it piece by piece, twice, and holds no more than a piece.

The first time it finds what must be known of the whole bucket (the tops of h - x_hat; mixing first, it makes the new
models and finds theirs); the second time it compresses, and mixes where that is left. What is read twice comes from L2
where that holds the buckets of all programs at once: 7 passes, 5 without momentum.
"""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import kept, widened
from fastsaddle.kernels._shared.buckets.public_step_triton import (
    local_rows,
    mixed_rows,
    neighbors_pull,
    quantized,
)
from fastsaddle.kernels._shared.buckets.reference import PIECE
from fastsaddle.kernels._shared.buckets.triton_gpu import bucket_span, magnitude_bits, steps_of
from fastsaddle.kernels._shared.philox.triton_gpu import COPIES

# what it takes: four buffers of so many agents and elements, for each of 132 programs, are 50 MB, the L2 of an H200
PIECES_AGENTS, PIECES_ELEMENTS = 48, 48 * 512
# columns of a block at least: 64 bytes of a row are the least that memory hands out without waste
NARROW = 16


def pieces_shape(agents: int, bucket: int, numbers: int, each: int) -> dict[str, int]:
    """Shape of a block, warps, and whether the key of draws is to lie in vector registers.

    Args:
        agents: of the stack. bucket: elements of its largest one.
        numbers: of a block. each: of a thread.
    """
    padded = triton.next_power_of_2(agents)
    columns = max(NARROW, min(max(PIECE, triton.next_power_of_2(bucket)), numbers // padded))
    # AMD's warps are wider: with as many, a thread has half as much, and spills nothing
    warps = max(1, padded * columns // (32 * each))
    is_amd = int(bool(torch.version.hip))
    return {"AGENTS": padded, "COLUMNS": columns, "num_warps": warps, "SPREAD_KEY": is_amd}


@triton.jit(do_not_specialize=["levels", "seed", "first_agent"])
def choco_step_pieces_kernel(
    x_ptr,
    start_ptr,
    g_ptr,
    momentum_ptr,
    x_hat_ptr,
    neighbors_ptr,
    weights_ptr,
    buckets_ptr,
    partial_ptr,
    lr_ptr,
    weight_decay_ptr,
    beta_ptr,
    mu_ptr,
    gamma_ptr,
    norm_ptr,
    step_ptr,
    x_stride,
    start_stride,
    g_stride,
    momentum_stride,
    x_hat_stride,
    lr_step,
    weight_decay_step,
    beta_step,
    mu_step,
    gamma_step,
    step_step,
    agents,
    columns,
    buckets,
    width,
    levels,
    seed,
    first_agent,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    GATED: tl.constexpr,
    MIX_FIRST: tl.constexpr,
    SPREAD_KEY: tl.constexpr,
    AGENTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    bucket = tl.program_id(0)
    begin, end = bucket_span(buckets_ptr, bucket, columns)
    i = tl.arange(0, AGENTS)
    # rows that pad the block are those of the last agent, without columns
    row = tl.minimum(i, agents - 1).to(tl.int64)[:, None]
    exists = (i < agents)[:, None]
    step = tl.load(step_ptr + tl.minimum(i, agents - 1) * step_step)
    who = first_agent + i
    # other for rows that do not exist, so that it takes no scalar registers: AMD's would spill
    key = seed + (i >= agents)[:, None].to(tl.int64) if SPREAD_KEY else seed
    tops = tl.zeros([AGENTS], dtype=tl.int32)
    squares = tl.zeros([AGENTS], dtype=tl.float32)
    losses = tl.zeros([AGENTS], dtype=tl.float32)
    for WALK in tl.static_range(2):
        inverse, scale = steps_of(tops.to(tl.float32, bitcast=True), levels)
        if WALK == 1 and MIX_FIRST:
            # whichever thread wrote the models
            tl.debug_barrier()
        for first in range(begin, end, COLUMNS):
            c = first + tl.arange(0, COLUMNS)[None, :]
            inside = exists & (c < end)
            x_hat_place = x_hat_ptr + row * x_hat_stride + c
            x_hat = widened(tl.load(x_hat_place, mask=inside, other=0.0))
            if WALK == 1 and MIX_FIRST:
                model = tl.load(x_ptr + row * x_stride + c, mask=inside, other=0.0)
            else:
                start, momentum, model, moved, lr, steps = local_rows(
                    start_ptr,
                    g_ptr,
                    momentum_ptr,
                    lr_ptr,
                    weight_decay_ptr,
                    beta_ptr,
                    norm_ptr,
                    start_stride,
                    g_stride,
                    momentum_stride,
                    lr_step,
                    weight_decay_step,
                    beta_step,
                    row,
                    c,
                    inside,
                    KIND,
                    NESTEROV,
                    MAXIMIZE,
                    GATED,
                )
            if WALK == 1:
                _, value, square, lost = quantized(
                    model - x_hat, inverse, scale, key, who, step, first + i * 0, levels
                )
                squares += square
                losses += lost
                x_hat = kept(x_hat + value, x_hat_ptr, key, who, step, first + i * 0, COPIES)
                tl.store(x_hat_place, x_hat, mask=inside)
                x_hat = widened(x_hat)
            if (WALK == 0) == MIX_FIRST:
                model = mixed_rows(
                    neighbors_pull(
                        x_hat, neighbors_ptr, weights_ptr, agents, width, AGENTS, COLUMNS
                    ),
                    start,
                    momentum,
                    model,
                    moved,
                    lr,
                    steps,
                    x_ptr,
                    momentum_ptr,
                    mu_ptr,
                    gamma_ptr,
                    x_stride,
                    momentum_stride,
                    mu_step,
                    gamma_step,
                    row,
                    c,
                    inside,
                    key,
                    who,
                    step,
                    first + i * 0,
                    KIND,
                    GATED,
                )
            if WALK == 0:
                tops = tl.maximum(tops, tl.max(magnitude_bits(model - x_hat), axis=1))
    place = partial_ptr + i.to(tl.int64) * (2 * buckets) + bucket
    tl.store(place, squares, mask=i < agents)
    tl.store(place + buckets, losses, mask=i < agents)
