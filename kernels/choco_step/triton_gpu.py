"""choco_step in Triton: one program holds a bucket of all agents, where it fits the registers.

Each buffer then comes from memory once and is written once: 7 passes, 5 without momentum, the least there can be.
Some rows are read a second time, from L2, rather than held. It takes up to FUSED_AGENTS agents with buckets of up to
FUSED_BUCKET elements.

Larger stacks take two kernels one after the other, for any number of agents: `publish` (t, codes and public copies,
bucket by bucket) and `mix` (models and momentum, slice by slice, neighbors' copies from L2). Each computes the local
step for itself, as that needs no scratch: 5 + 6 = 11 passes, 8 without momentum; mix first 6 + 3 = 9, or 7.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._bfloat16_triton import COPIES, MOMENTUM, as_bits, kept, widened
from fastsaddle.kernels._buckets import PIECE
from fastsaddle.kernels._buckets_triton import (
    bucket_span,
    rounding_draws,
    row_tops,
    signed_codes,
    steps_of,
    tile_rows,
    tile_shape,
)
from fastsaddle.kernels._step_triton import (
    is_finite,
    local_values,
    quasi_global_values,
    rows_of,
)
from fastsaddle.kernels._triton_launch import EXACT, STREAM_COLUMNS

# what a fused program holds at most: more spills
FUSED_AGENTS, FUSED_BUCKET = 16, 512
# buckets that a finishing program adds at once
LANES = 512


@triton.jit
def local_rows(
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
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    GATED: tl.constexpr,
):
    """(start, momentum, h, momentum after a local-momentum step, lr, which agents step) of a block of rows."""
    start = tl.load(start_ptr + row * start_stride + c, mask=inside, other=0.0)
    g = tl.load(g_ptr + row * g_stride + c, mask=inside, other=0.0)
    momentum = start
    if KIND != 0:
        momentum = tl.load(momentum_ptr + row * momentum_stride + c, mask=inside, other=0.0)
        momentum = widened(momentum)
    lr = tl.load(lr_ptr + row * lr_step)
    weight_decay = tl.load(weight_decay_ptr + row * weight_decay_step)
    beta = tl.load(beta_ptr + row * beta_step)
    h, moved = local_values(start, g, momentum, lr, weight_decay, beta, KIND, NESTEROV, MAXIMIZE)
    steps = row >= 0
    if GATED:
        steps = is_finite(tl.load(norm_ptr + row))
        h = tl.where(steps, h, start)
        moved = tl.where(steps, moved, momentum)
    return start, momentum, h, moved, lr, steps


@triton.jit
def quantized(t, inverse, scale, seed, agent, step, begin, levels, COLUMNS: tl.constexpr):
    """(Q(t), ||t||^2, ||Q(t) - t||^2) of rows from the columns `begin` on."""
    draws = rounding_draws(seed, agent, step, begin, COLUMNS)
    value = signed_codes(t, draws, inverse[:, None], levels).to(tl.float32) * scale[:, None]
    lost = value - t
    return value, tl.sum(t * t, axis=1), tl.sum(lost * lost, axis=1)


@triton.jit
def neighbors_pull(
    x_hat, neighbors_ptr, weights_ptr, agents, width, AGENTS: tl.constexpr, COLUMNS: tl.constexpr
):
    """sum_k weights_ik x_hat_{neighbors_ik} - x_hat_i of a block that holds all agents, in the list's order."""
    i = tl.minimum(tl.arange(0, AGENTS), agents - 1)
    first = tl.load(neighbors_ptr + i * width)
    weight = tl.load(weights_ptr + i * width)
    # a wrong list must not read outside: nothing can be raised from here
    mixed = weight[:, None] * rows_of(
        x_hat, tl.minimum(tl.maximum(first, 0), AGENTS - 1), AGENTS, COLUMNS
    )
    for k in range(1, width):
        neighbor = tl.load(neighbors_ptr + i * width + k)
        weight = tl.load(weights_ptr + i * width + k)
        term = weight[:, None] * rows_of(
            x_hat, tl.minimum(tl.maximum(neighbor, 0), AGENTS - 1), AGENTS, COLUMNS
        )
        mixed = tl.where(neighbor[:, None] >= 0, mixed + term, mixed)
    return mixed - x_hat


@triton.jit
def mixed_rows(
    pull,
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
    agent,
    step,
    begin,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
):
    """The new models of a block of rows; they and their momentum are written."""
    if KIND == 1:
        moved = kept(moved, momentum_ptr, seed, agent, step, begin, MOMENTUM)
        tl.store(momentum_ptr + row * momentum_stride + c, moved, mask=inside)
    mixed = h + tl.load(gamma_ptr + row * gamma_step) * pull
    if KIND == 2:
        moved = quasi_global_values(start, mixed, momentum, lr, tl.load(mu_ptr + row * mu_step))
        if GATED:
            moved = tl.where(steps, moved, momentum)
        moved = kept(moved, momentum_ptr, seed, agent, step, begin, MOMENTUM)
        tl.store(momentum_ptr + row * momentum_stride + c, moved, mask=inside)
    tl.store(x_ptr + row * x_stride + c, mixed, mask=inside)
    return mixed


@triton.jit(do_not_specialize=["levels", "seed", "first_agent"])
def choco_step_kernel(
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
    AGENTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    bucket = tl.program_id(0)
    begin, end = bucket_span(buckets_ptr, bucket, columns)
    i = tl.arange(0, AGENTS)
    # rows that pad the block are those of the last agent, without columns
    row = tl.minimum(i, agents - 1).to(tl.int64)[:, None]
    c = begin + tl.arange(0, COLUMNS)[None, :]
    inside = (i < agents)[:, None] & (c < end)
    step = tl.load(step_ptr + tl.minimum(i, agents - 1) * step_step)
    place = partial_ptr + i.to(tl.int64) * (2 * buckets) + bucket
    x_hat_place = x_hat_ptr + row * x_hat_stride + c
    x_hat = widened(tl.load(x_hat_place, mask=inside, other=0.0))
    # what is read again comes from L2: held meanwhile, it would spill
    if not MIX_FIRST:
        _, _, h, _, _, _ = local_rows(
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
        t = h - x_hat
        inverse, scale = steps_of(row_tops(t, 0), levels)
        value, square, lost = quantized(
            t, inverse, scale, seed, first_agent + i, step, begin + i * 0, levels, COLUMNS
        )
        tl.store(place, square, mask=i < agents)
        tl.store(place + buckets, lost, mask=i < agents)
        x_hat = widened(tl.load(x_hat_place, mask=inside, other=0.0)) + value
        x_hat = kept(x_hat, x_hat_ptr, seed, first_agent + i, step, begin + i * 0, COPIES)
        tl.store(x_hat_place, x_hat, mask=inside)
        x_hat = widened(x_hat)
    pull = neighbors_pull(x_hat, neighbors_ptr, weights_ptr, agents, width, AGENTS, COLUMNS)
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
    mixed = mixed_rows(
        pull,
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
        first_agent + i,
        step,
        begin + i * 0,
        KIND,
        GATED,
    )
    if MIX_FIRST:
        x_hat = widened(tl.load(x_hat_place, mask=inside, other=0.0))
        t = mixed - x_hat
        inverse, scale = steps_of(row_tops(t, 0), levels)
        value, square, lost = quantized(
            t, inverse, scale, seed, first_agent + i, step, begin + i * 0, levels, COLUMNS
        )
        tl.store(place, square, mask=i < agents)
        tl.store(place + buckets, lost, mask=i < agents)
        x_hat = x_hat + value
        x_hat = kept(x_hat, x_hat_ptr, seed, first_agent + i, step, begin + i * 0, COPIES)
        tl.store(x_hat_place, x_hat, mask=inside)


@triton.jit(do_not_specialize=["levels", "seed", "first_agent"])
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
        buckets_ptr, agents, columns, buckets, ROWS, PIECES, HALVINGS
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
    value, square, lost = quantized(
        t, inverse, scale, seed, first_agent + agent, step, begin, levels, COLUMNS
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


@triton.jit
def squares_finish_kernel(partial_ptr, squares_ptr, buckets, LANES: tl.constexpr):
    agent = tl.program_id(0).to(tl.int64)
    both = tl.arange(0, 2)
    lanes = tl.zeros([2, LANES], dtype=tl.float64)
    for first in range(0, buckets, LANES):
        b = first + tl.arange(0, LANES)[None, :]
        place = partial_ptr + (agent * 2 + both)[:, None] * buckets + b
        lanes += tl.load(place, mask=b < buckets, other=0.0).to(tl.float64)
    tl.store(squares_ptr + agent * 2 + both, tl.sum(lanes, axis=1))


def launch(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    x_hat: torch.Tensor,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    buckets: torch.Tensor,
    bucket: int,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    mu: torch.Tensor,
    gamma: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    mix_first: bool,
    levels: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    squares: torch.Tensor,
) -> None:
    agents, columns = x.shape
    count = buckets.shape[0]
    start = x if saved is None else saved
    moments = x if momentum is None else as_bits(momentum)
    norms = lr if norm is None else norm
    partial = torch.empty(agents, 2, count, dtype=torch.float32, device=x.device)
    rows = (start, g, moments, as_bits(x_hat))
    strides = tuple(tensor.stride(0) for tensor in rows)
    lists = (neighbors, weights)
    local, local_steps = (lr, weight_decay, beta), (lr.dim(), weight_decay.dim(), beta.dim())
    kinds: dict[str, Any] = {
        "KIND": kind,
        "NESTEROV": nesterov,
        "MAXIMIZE": maximize,
        "GATED": norm is not None,
    }
    draw = (levels, seed, first_agent)

    def publish(model: torch.Tensor, steps: bool) -> None:
        programs, shape = tile_shape(agents, columns, buckets, bucket)
        publish_kernel[(programs,)](
            model,
            *rows[1:],
            buckets,
            partial,
            *local,
            norms,
            step,
            model.stride(0),
            *strides[1:],
            *local_steps,
            step.dim(),
            agents,
            columns,
            count,
            *draw,
            STEPS=steps,
            **kinds,
            **shape,
            **EXACT,
        )

    if agents <= FUSED_AGENTS and bucket <= FUSED_BUCKET:
        padded = triton.next_power_of_2(agents)
        block = max(PIECE, triton.next_power_of_2(bucket))
        # numbers of a warp: the second order holds more, AMD's warps are wider, and 1024 threads are the most
        each = 512 if mix_first or torch.version.hip else 256
        choco_step_kernel[(count,)](
            x,
            *rows,
            *lists,
            buckets,
            partial,
            *local,
            mu,
            gamma,
            norms,
            step,
            x.stride(0),
            *strides,
            *local_steps,
            mu.dim(),
            gamma.dim(),
            step.dim(),
            agents,
            columns,
            count,
            neighbors.shape[1],
            *draw,
            MIX_FIRST=mix_first,
            AGENTS=padded,
            COLUMNS=block,
            num_warps=max(1, padded * block // each),
            **kinds,
            **EXACT,
        )
    else:
        if not mix_first:
            publish(start, True)
        slice_ = min(STREAM_COLUMNS, triton.next_power_of_2(columns))
        together = STREAM_COLUMNS // slice_
        mix_kernel[(triton.cdiv(agents * triton.cdiv(columns, slice_), together),)](
            x,
            *rows,
            *lists,
            *local,
            mu,
            gamma,
            norms,
            step,
            x.stride(0),
            *strides,
            *local_steps,
            mu.dim(),
            gamma.dim(),
            step.dim(),
            agents,
            columns,
            neighbors.shape[1],
            seed,
            first_agent,
            ROWS=together,
            COLUMNS=slice_,
            **kinds,
            **EXACT,
        )
        if mix_first:
            publish(x, False)
    squares_finish_kernel[(agents,)](partial, squares, count, LANES=LANES, **EXACT)
