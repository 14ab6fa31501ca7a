"""choco_step in Triton: one program holds a bucket of all agents, where it fits the registers.

Each buffer then comes from memory once and is written once: 7 passes, 5 without momentum, the least there can be.
Some rows are read a second time, from L2, rather than held. It takes up to WHOLE_AGENTS agents with buckets of up to
WHOLE_BUCKET elements. What is larger is taken piece by piece as long as L2 holds it: pieces_triton.py.

Larger stacks take two kernels one after the other, for any number of agents: halves_triton.py.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import as_bits, kept, widened
from fastsaddle.kernels._shared.buckets.reference import PIECE
from fastsaddle.kernels._shared.buckets.triton_gpu import (
    bucket_span,
    row_tops,
    steps_of,
    tile_shape,
)
from fastsaddle.kernels._shared.philox.triton_gpu import COPIES
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels.choco_step.blocks_triton import (
    local_rows,
    mixed_rows,
    neighbors_pull,
    quantized,
)
from fastsaddle.kernels.choco_step.halves_triton import mix_kernel, publish_kernel
from fastsaddle.kernels.choco_step.pieces_triton import (
    PIECES_AGENTS,
    PIECES_ELEMENTS,
    choco_step_pieces_kernel,
    pieces_shape,
)

# what a program holds at most at once: more spills
WHOLE_AGENTS, WHOLE_BUCKET = 16, 512
# buckets that a finishing program adds at once
LANES = 512


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
            t, inverse, scale, seed, first_agent + i, step, begin + i * 0, levels
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
            t, inverse, scale, seed, first_agent + i, step, begin + i * 0, levels
        )
        tl.store(place, square, mask=i < agents)
        tl.store(place + buckets, lost, mask=i < agents)
        x_hat = x_hat + value
        x_hat = kept(x_hat, x_hat_ptr, seed, first_agent + i, step, begin + i * 0, COPIES)
        tl.store(x_hat_place, x_hat, mask=inside)


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


def fused_kernel(agents: int, bucket: int, mix_first: bool) -> tuple[Any, dict[str, int]]:
    """The kernel that takes all agents of a bucket in one program, and the shape of its blocks."""
    if agents > WHOLE_AGENTS or bucket > WHOLE_BUCKET:
        return choco_step_pieces_kernel, pieces_shape(agents, bucket)
    padded = triton.next_power_of_2(agents)
    width = max(PIECE, triton.next_power_of_2(bucket))
    # numbers of a warp: the second order holds more, AMD's warps are wider, and 1024 threads are the most
    each = 512 if mix_first or torch.version.hip else 256
    warps = max(1, padded * width // each)
    return choco_step_kernel, {"AGENTS": padded, "COLUMNS": width, "num_warps": warps}


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
    active: torch.Tensor | None = None,
) -> None:
    agents, columns = x.shape
    count = buckets.shape[0]
    start = x if saved is None else saved
    moments = x if momentum is None else as_bits(momentum)
    norm = gated(norm, active)
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

    if agents <= PIECES_AGENTS and agents * bucket <= PIECES_ELEMENTS:
        kernel, shape = fused_kernel(agents, bucket, mix_first)
        kernel[(count,)](
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
            **shape,
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
