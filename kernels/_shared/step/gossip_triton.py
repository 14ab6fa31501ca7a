"""The two halves of a gossip step as Triton kernels: local_step and mix_update."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import as_bits, kept, widened
from fastsaddle.kernels._shared.philox.triton_gpu import MOMENTUM
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels._shared.step.triton_gpu import is_finite, local_values, quasi_global_values


@triton.jit(do_not_specialize=["seed", "first_agent"])
def local_step_kernel(
    start_ptr,
    g_ptr,
    momentum_ptr,
    h_ptr,
    lr_ptr,
    weight_decay_ptr,
    beta_ptr,
    norm_ptr,
    step_ptr,
    start_stride,
    g_stride,
    momentum_stride,
    h_stride,
    lr_step,
    weight_decay_step,
    beta_step,
    step_step,
    columns,
    blocks,
    seed,
    first_agent,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    GATED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // blocks).to(tl.int64)
    begin = tl.program_id(0) % blocks * COLUMNS
    c = begin + tl.arange(0, COLUMNS)
    inside = c < columns
    start = tl.load(start_ptr + agent * start_stride + c, mask=inside)
    g = tl.load(g_ptr + agent * g_stride + c, mask=inside)
    momentum = start
    if KIND != 0:
        momentum = widened(tl.load(momentum_ptr + agent * momentum_stride + c, mask=inside))
    h, moved = local_values(
        start,
        g,
        momentum,
        tl.load(lr_ptr + agent * lr_step),
        tl.load(weight_decay_ptr + agent * weight_decay_step),
        tl.load(beta_ptr + agent * beta_step),
        KIND,
        NESTEROV,
        MAXIMIZE,
    )
    if GATED:
        steps = is_finite(tl.load(norm_ptr + agent))
        h = tl.where(steps, h, start)
        moved = tl.where(steps, moved, momentum)
    tl.store(h_ptr + agent * h_stride + c, h, mask=inside)
    if KIND == 1:
        step = tl.load(step_ptr + agent * step_step)
        moved = kept(moved, momentum_ptr, seed, first_agent + agent, step, begin, MOMENTUM)
        tl.store(momentum_ptr + agent * momentum_stride + c, moved, mask=inside)


@triton.jit(do_not_specialize=["seed", "first_agent"])
def mix_update_kernel(
    start_ptr,
    h_ptr,
    momentum_ptr,
    x_ptr,
    neighbors_ptr,
    weights_ptr,
    lr_ptr,
    mu_ptr,
    norm_ptr,
    step_ptr,
    start_stride,
    h_stride,
    momentum_stride,
    x_stride,
    lr_step,
    mu_step,
    step_step,
    agents,
    rows,
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
    first = tl.minimum(tl.maximum(first, 0), rows - 1).to(tl.int64)
    weight = tl.load(weights_ptr + agent * width)
    mixed = weight * tl.load(h_ptr + first * h_stride + c, mask=inside)
    for k in range(1, width):
        neighbor = tl.load(neighbors_ptr + agent * width + k)
        neighbor = tl.minimum(neighbor, rows - 1).to(tl.int64)
        weight = tl.load(weights_ptr + agent * width + k)
        if neighbor >= 0:
            mixed = mixed + weight * tl.load(h_ptr + neighbor * h_stride + c, mask=inside)
    if QUASI_GLOBAL:
        start = tl.load(start_ptr + agent * start_stride + c, mask=inside)
        momentum = widened(tl.load(momentum_ptr + agent * momentum_stride + c, mask=inside))
        lr = tl.load(lr_ptr + agent * lr_step)
        moved = quasi_global_values(start, mixed, momentum, lr, tl.load(mu_ptr + agent * mu_step))
        if GATED:
            moved = tl.where(is_finite(tl.load(norm_ptr + agent)), moved, momentum)
        step = tl.load(step_ptr + agent * step_step)
        moved = kept(moved, momentum_ptr, seed, first_agent + agent, step, begin, MOMENTUM)
        tl.store(momentum_ptr + agent * momentum_stride + c, moved, mask=inside)
    tl.store(x_ptr + agent * x_stride + c, mixed, mask=inside)


def launch_local_step(
    start: torch.Tensor,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    h: torch.Tensor,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
) -> None:
    """h = start - lr u for every agent."""
    agents, columns = start.shape
    moments = start if momentum is None else as_bits(momentum)
    blocks = triton.cdiv(columns, STREAM_COLUMNS)
    local_step_kernel[(agents * blocks,)](
        start,
        g,
        moments,
        h,
        lr,
        weight_decay,
        beta,
        lr if norm is None else norm,
        step,
        start.stride(0),
        g.stride(0),
        moments.stride(0),
        h.stride(0),
        lr.dim(),
        weight_decay.dim(),
        beta.dim(),
        step.dim(),
        columns,
        blocks,
        seed,
        first_agent,
        KIND=kind,
        NESTEROV=nesterov,
        MAXIMIZE=maximize,
        GATED=norm is not None,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )


def launch_mix_update(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    h: torch.Tensor,
    momentum: torch.Tensor | None,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    mu: torch.Tensor,
    norm: torch.Tensor | None,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    """x = W h, and quasi-global momentum where it is given; h may have rows of its own number."""
    agents, columns = x.shape
    norm = gated(norm, active)
    start = x if saved is None else saved
    moments = x if momentum is None else as_bits(momentum)
    mix_update_kernel[(agents * triton.cdiv(columns, STREAM_COLUMNS),)](
        start,
        h,
        moments,
        x,
        neighbors,
        weights,
        lr,
        mu,
        lr if norm is None else norm,
        step,
        start.stride(0),
        h.stride(0),
        moments.stride(0),
        x.stride(0),
        lr.dim(),
        mu.dim(),
        step.dim(),
        agents,
        h.shape[0],
        columns,
        neighbors.shape[1],
        seed,
        first_agent,
        QUASI_GLOBAL=momentum is not None,
        GATED=norm is not None,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
