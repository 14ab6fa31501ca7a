"""gossip_step in Triton: one program holds a slice of all agents, so each buffer is read and written once.

Neighbors are fetched from the block by a gather and summed in the list's order. Beyond FUSED_AGENTS agents a program
that holds a slice would be alone on its multiprocessor: slices_triton.py passes h through L2, with the same bits.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import as_bits, kept, widened
from fastsaddle.kernels._shared.philox.triton_gpu import MOMENTUM
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, FUSED_AGENTS, fused_shape
from fastsaddle.kernels._shared.shapes.table import shape
from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels._shared.step.triton_gpu import (
    is_finite,
    local_values,
    quasi_global_values,
    rows_of,
)
from fastsaddle.kernels.gossip_step.slices_triton import gossip_step_slices_kernel, walk


@triton.jit(do_not_specialize=["seed", "first_agent"])
def gossip_step_kernel(
    x_ptr,
    start_ptr,
    g_ptr,
    momentum_ptr,
    neighbors_ptr,
    weights_ptr,
    lr_ptr,
    weight_decay_ptr,
    beta_ptr,
    mu_ptr,
    norm_ptr,
    step_ptr,
    x_stride,
    start_stride,
    g_stride,
    momentum_stride,
    lr_step,
    weight_decay_step,
    beta_step,
    mu_step,
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
    AGENTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    i = tl.arange(0, AGENTS)
    begin = tl.program_id(0) * COLUMNS
    c = begin + tl.arange(0, COLUMNS)
    agent = i < agents
    inside = agent[:, None] & (c < columns)[None, :]
    row = i.to(tl.int64)[:, None]
    start = tl.load(start_ptr + row * start_stride + c[None, :], mask=inside, other=0.0)
    g = tl.load(g_ptr + row * g_stride + c[None, :], mask=inside, other=0.0)
    momentum = start
    if KIND != 0:
        momentum = tl.load(
            momentum_ptr + row * momentum_stride + c[None, :], mask=inside, other=0.0
        )
        momentum = widened(momentum)
    lr = tl.load(lr_ptr + i * lr_step, mask=agent, other=0.0)[:, None]
    weight_decay = tl.load(weight_decay_ptr + i * weight_decay_step, mask=agent, other=0.0)[:, None]
    beta = tl.load(beta_ptr + i * beta_step, mask=agent, other=0.0)[:, None]
    h, moved = local_values(start, g, momentum, lr, weight_decay, beta, KIND, NESTEROV, MAXIMIZE)
    if GATED:
        steps = is_finite(tl.load(norm_ptr + i, mask=agent, other=0.0))[:, None]
        h = tl.where(steps, h, start)
        moved = tl.where(steps, moved, momentum)
    if KIND == 1:
        step = tl.load(step_ptr + i * step_step, mask=agent, other=0)
        moved = kept(moved, momentum_ptr, seed, first_agent + i, step, begin + i * 0, MOMENTUM)
        tl.store(momentum_ptr + row * momentum_stride + c[None, :], moved, mask=inside)
    first = tl.load(neighbors_ptr + i * width, mask=agent, other=0)
    weight = tl.load(weights_ptr + i * width, mask=agent, other=0.0)
    mixed = weight[:, None] * rows_of(
        h, tl.minimum(tl.maximum(first, 0), AGENTS - 1), AGENTS, COLUMNS
    )
    for k in range(1, width):
        # an index, where the weights walk a pointer: two pointers for each row cost 20 registers more
        neighbor = tl.load(neighbors_ptr + (i * width + k), mask=agent, other=-1)
        weight = tl.load(weights_ptr + i * width + k, mask=agent, other=0.0)
        term = weight[:, None] * rows_of(
            h, tl.minimum(tl.maximum(neighbor, 0), AGENTS - 1), AGENTS, COLUMNS
        )
        mixed = tl.where(neighbor[:, None] >= 0, mixed + term, mixed)
    tl.store(x_ptr + row * x_stride + c[None, :], mixed, mask=inside)
    if KIND == 2:
        mu = tl.load(mu_ptr + i * mu_step, mask=agent, other=0.0)[:, None]
        moved = quasi_global_values(start, mixed, momentum, lr, mu)
        if GATED:
            moved = tl.where(steps, moved, momentum)
        step = tl.load(step_ptr + i * step_step, mask=agent, other=0)
        moved = kept(moved, momentum_ptr, seed, first_agent + i, step, begin + i * 0, MOMENTUM)
        tl.store(momentum_ptr + row * momentum_stride + c[None, :], moved, mask=inside)


def launch(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    mu: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    agents, columns = x.shape
    norm = gated(norm, active)
    start = x if saved is None else saved
    moments = x if momentum is None else as_bits(momentum)
    scalars = (lr, weight_decay, beta, mu)
    arguments = (
        *(x, start, g, moments),
        *(neighbors, weights),
        *scalars,
        lr if norm is None else norm,
        step,
        *(rows.stride(0) for rows in (x, start, g, moments)),
        *(scalar.dim() for scalar in scalars),
        step.dim(),
        *(agents, columns, neighbors.shape[1]),
        *(seed, first_agent),
    )
    kinds: dict[str, Any] = {
        "KIND": kind,
        "NESTEROV": nesterov,
        "MAXIMIZE": maximize,
        "GATED": norm is not None,
    }
    if agents > FUSED_AGENTS:
        blocks = shape("gossip_step", agents, x.device)
        h, slices = walk(x, moments, kind, blocks["COLUMNS"], blocks["resident"])
        gossip_step_slices_kernel[(h.shape[0],)](
            *arguments,
            h,
            slices,
            **kinds,
            SPREAD_KEY=bool(torch.version.hip),
            ROWS=blocks["ROWS"],
            COLUMNS=blocks["COLUMNS"],
            num_warps=blocks["num_warps"],
            **EXACT,
        )
        return
    padded, block, warps = fused_shape(agents)
    gossip_step_kernel[(triton.cdiv(columns, block),)](
        *arguments,
        **kinds,
        AGENTS=padded,
        COLUMNS=block,
        num_warps=warps,
        **EXACT,
    )
