"""The halves of choco_step for stacks of any size: public copies bucket by bucket, models and momentum slice by slice.

Each computes the local step for itself, as that needs no scratch: 5 + 6 = 11 passes, 8 without momentum; mixing first
6 + 3 = 9, or 7. The neighbors' copies come from L2.
"""

import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import kept, widened
from fastsaddle.kernels._shared.buckets.public_step_triton import local_rows, mixed_rows, quantized
from fastsaddle.kernels._shared.buckets.triton_gpu import row_tops, steps_of, tile_rows
from fastsaddle.kernels._shared.philox.triton_gpu import COPIES


@triton.jit(do_not_specialize=["multiplier", "shift", "levels", "seed", "first_agent"])
def publish_kernel(
    start_ptr,
    g_ptr,
    momentum_ptr,
    x_hat_ptr,
    buckets_ptr,
    partial_ptr,
    lr_ptr,
    weight_decay_ptr,
    beta_ptr,
    norm_ptr,
    step_ptr,
    start_stride,
    g_stride,
    momentum_stride,
    x_hat_stride,
    lr_step,
    weight_decay_step,
    beta_step,
    step_step,
    agents,
    columns,
    buckets,
    multiplier,
    shift,
    levels,
    seed,
    first_agent,
    STEPS: tl.constexpr,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    GATED: tl.constexpr,
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
    row = agent[:, None]
    x_hat = widened(tl.load(x_hat_ptr + row * x_hat_stride + c, mask=inside, other=0.0))
    if STEPS:
        _, _, model, _, _, _ = local_rows(
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
    else:
        model = tl.load(start_ptr + row * start_stride + c, mask=inside, other=0.0)
    t = model - x_hat
    inverse, scale = steps_of(row_tops(t, 0), levels)
    step = tl.load(step_ptr + agent * step_step)
    _, value, square, lost = quantized(
        t, inverse, scale, seed, first_agent + agent, step, begin, levels
    )
    x_hat = kept(x_hat + value, x_hat_ptr, seed, first_agent + agent, step, begin, COPIES)
    tl.store(x_hat_ptr + row * x_hat_stride + c, x_hat, mask=inside)
    place = partial_ptr + agent * (2 * buckets) + bucket
    tl.store(place, square, mask=begin < end)
    tl.store(place + buckets, lost, mask=begin < end)


@triton.jit(do_not_specialize=["seed", "first_agent"])
def mix_kernel(
    x_ptr,
    start_ptr,
    g_ptr,
    momentum_ptr,
    x_hat_ptr,
    neighbors_ptr,
    weights_ptr,
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
    width,
    seed,
    first_agent,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # agents run fastest, so that a slice's neighbors are in L2 together
    agent = (number % agents).to(tl.int64)
    row = agent[:, None]
    begin = number // agents * COLUMNS
    c = begin[:, None] + tl.arange(0, COLUMNS)[None, :]
    inside = c < columns
    # a wrong list must not read outside: nothing can be raised from here
    first = tl.load(neighbors_ptr + row * width)
    first = tl.minimum(tl.maximum(first, 0), agents - 1).to(tl.int64)
    mixed = tl.load(x_hat_ptr + first * x_hat_stride + c, mask=inside, other=0.0)
    mixed = tl.load(weights_ptr + row * width) * widened(mixed)
    for k in range(1, width):
        neighbor = tl.load(neighbors_ptr + row * width + k)
        named = neighbor >= 0
        neighbor = tl.minimum(tl.maximum(neighbor, 0), agents - 1).to(tl.int64)
        x_hat = tl.load(x_hat_ptr + neighbor * x_hat_stride + c, mask=inside & named, other=0.0)
        x_hat = widened(x_hat)
        weight = tl.load(weights_ptr + row * width + k)
        mixed = tl.where(named, mixed + weight * x_hat, mixed)
    # most often the same row as the list's first
    x_hat = widened(tl.load(x_hat_ptr + row * x_hat_stride + c, mask=inside, other=0.0))
    start, momentum, h, moved, lr, steps = local_rows(
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
    mixed_rows(
        mixed - x_hat,
        start,
        momentum,
        h,
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
        seed,
        first_agent + agent,
        tl.load(step_ptr + agent * step_step),
        begin,
        KIND,
        GATED,
    )
