"""choco_mix in Triton: one program takes a slice of one agent; its neighbors' copies are in L2."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import as_bits, kept, widened
from fastsaddle.kernels._shared.philox.triton_gpu import MOMENTUM
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels._shared.step.triton_gpu import is_finite, quasi_global_values


@triton.jit(do_not_specialize=["stacked", "seed", "first_agent"])
def choco_mix_kernel(
    start_ptr,
    h_ptr,
    momentum_ptr,
    x_ptr,
    x_hat_ptr,
    neighbors_ptr,
    weights_ptr,
    lr_ptr,
    mu_ptr,
    gamma_ptr,
    norm_ptr,
    step_ptr,
    start_stride,
    h_stride,
    momentum_stride,
    x_stride,
    x_hat_stride,
    lr_step,
    mu_step,
    gamma_step,
    step_step,
    agents,
    stacked,
    columns,
    width,
    seed,
    first_agent,
    QUASI_GLOBAL: tl.constexpr,
    GATED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # agents run fastest, so that a slice's neighbors are in L2 together
    agent = (tl.program_id(0) % agents).to(tl.int64)
    begin = tl.program_id(0) // agents * COLUMNS
    c = begin + tl.arange(0, COLUMNS)
    inside = c < columns
    # a wrong list must not read outside: nothing can be raised from here
    first = tl.load(neighbors_ptr + agent * width)
    first = tl.minimum(tl.maximum(first, 0), stacked - 1).to(tl.int64)
    mixed = widened(tl.load(x_hat_ptr + first * x_hat_stride + c, mask=inside, other=0.0))
    mixed = tl.load(weights_ptr + agent * width) * mixed
    for k in range(1, width):
        neighbor = tl.load(neighbors_ptr + agent * width + k)
        named = neighbor >= 0
        neighbor = tl.minimum(tl.maximum(neighbor, 0), stacked - 1).to(tl.int64)
        x_hat = tl.load(x_hat_ptr + neighbor * x_hat_stride + c, mask=inside & named, other=0.0)
        weight = tl.load(weights_ptr + agent * width + k)
        mixed = tl.where(named, mixed + weight * widened(x_hat), mixed)
    # most often the same row as the list's first
    x_hat = widened(tl.load(x_hat_ptr + agent * x_hat_stride + c, mask=inside, other=0.0))
    gamma = tl.load(gamma_ptr + agent * gamma_step)
    h = tl.load(h_ptr + agent * h_stride + c, mask=inside, other=0.0)
    x = h + gamma * (mixed - x_hat)
    if QUASI_GLOBAL:
        start = tl.load(start_ptr + agent * start_stride + c, mask=inside, other=0.0)
        place = momentum_ptr + agent * momentum_stride + c
        momentum = widened(tl.load(place, mask=inside, other=0.0))
        lr, mu = tl.load(lr_ptr + agent * lr_step), tl.load(mu_ptr + agent * mu_step)
        moved = quasi_global_values(start, x, momentum, lr, mu)
        if GATED:
            moved = tl.where(is_finite(tl.load(norm_ptr + agent)), moved, momentum)
        step = tl.load(step_ptr + agent * step_step)
        moved = kept(moved, momentum_ptr, seed, first_agent + agent, step, begin, MOMENTUM)
        tl.store(place, moved, mask=inside)
    tl.store(x_ptr + agent * x_stride + c, x, mask=inside)


def launch(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    h: torch.Tensor,
    momentum: torch.Tensor | None,
    x_hat: torch.Tensor,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    mu: torch.Tensor,
    gamma: torch.Tensor,
    norm: torch.Tensor | None,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    agents, columns = x.shape
    norm = gated(norm, active)
    moments = x if momentum is None else as_bits(momentum)
    rows = (x if saved is None else saved, h, moments, x, as_bits(x_hat))
    choco_mix_kernel[(agents * triton.cdiv(columns, STREAM_COLUMNS),)](
        *rows,
        neighbors,
        weights,
        lr,
        mu,
        gamma,
        lr if norm is None else norm,
        step,
        *(tensor.stride(0) for tensor in rows),
        lr.dim(),
        mu.dim(),
        gamma.dim(),
        step.dim(),
        agents,
        x_hat.shape[0],
        columns,
        neighbors.shape[1],
        seed,
        first_agent,
        QUASI_GLOBAL=momentum is not None,
        GATED=norm is not None,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
