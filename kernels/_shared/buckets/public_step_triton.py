"""What the kernels of choco_step and its parts share: local step, quantizer and mixing of a block of rows."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import kept, widened
from fastsaddle.kernels._shared.buckets.triton_gpu import signed_codes
from fastsaddle.kernels._shared.philox.triton_gpu import MOMENTUM, ROUNDING, halves
from fastsaddle.kernels._shared.rows.triton_launch import EXACT
from fastsaddle.kernels._shared.step.triton_gpu import (
    is_finite,
    local_values,
    quasi_global_values,
    rows_of,
)

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
def quantized(t, inverse, scale, seed, agent, step, begin, levels):
    """(codes, Q(t), ||t||^2, ||Q(t) - t||^2) of rows from the columns `begin` on."""
    draws = halves(t, seed, agent, step, begin, ROUNDING)
    codes = signed_codes(t, draws, inverse[:, None], levels)
    value = codes.to(tl.float32) * scale[:, None]
    lost = value - t
    return codes, value, tl.sum(t * t, axis=1), tl.sum(lost * lost, axis=1)


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


def finish_squares(partial: torch.Tensor, squares: torch.Tensor) -> None:
    """squares `[agents, 2]`: what buckets left in `partial` `[agents, 2, buckets]`, added."""
    agents, _, buckets = partial.shape
    squares_finish_kernel[(agents,)](partial, squares, buckets, LANES=LANES, **EXACT)
