"""choco_step in Triton: one program takes a bucket of all agents, piece by piece, twice.

Each buffer then comes from memory once and is written once, as long as L2 holds the buckets that programs take at once:
7 passes, 5 without momentum, the least there can be: pieces_triton.py.

Larger stacks take two kernels one after the other, for any number of agents: halves_triton.py.
"""

from typing import Any

import torch
import triton

from fastsaddle.kernels._shared.bfloat16.triton_gpu import as_bits
from fastsaddle.kernels._shared.buckets.public_step_triton import finish_squares
from fastsaddle.kernels._shared.buckets.triton_gpu import tile_shape
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.shapes.table import shape
from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels.choco_step.halves_triton import mix_kernel, publish_kernel
from fastsaddle.kernels.choco_step.pieces_triton import (
    PIECES_AGENTS,
    PIECES_ELEMENTS,
    choco_step_pieces_kernel,
    pieces_shape,
)


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
        programs, divides, tiles = tile_shape(agents, columns, buckets, bucket)
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
            *divides,
            *draw,
            STEPS=steps,
            **kinds,
            **tiles,
            **EXACT,
        )

    numbers, each = (shape("choco_step", agents, x.device)[name] for name in ("numbers", "each"))
    is_small = agents <= PIECES_AGENTS and agents * bucket <= PIECES_ELEMENTS
    if numbers and is_small:
        choco_step_pieces_kernel[(count,)](
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
            **pieces_shape(agents, bucket, numbers, each),
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
    finish_squares(partial, squares)
