"""choco_encode in Triton: one program takes a tile of buckets; models and public copies are read once."""

from typing import Any

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import as_bits, kept, widened
from fastsaddle.kernels._shared.buckets.public_step_triton import (
    finish_squares,
    local_rows,
    quantized,
)
from fastsaddle.kernels._shared.buckets.triton_gpu import (
    row_tops,
    steps_of,
    store_packed,
    tile_rows,
    tile_shape,
)
from fastsaddle.kernels._shared.philox.triton_gpu import COPIES, MOMENTUM
from fastsaddle.kernels._shared.rows.triton_launch import EXACT
from fastsaddle.kernels._shared.step.reference import gated


@triton.jit(do_not_specialize=["multiplier", "shift", "levels", "seed", "first_agent"])
def choco_encode_kernel(
    start_ptr,
    g_ptr,
    momentum_ptr,
    h_ptr,
    x_hat_ptr,
    buckets_ptr,
    partial_ptr,
    lr_ptr,
    weight_decay_ptr,
    beta_ptr,
    norm_ptr,
    step_ptr,
    codes_ptr,
    scales_ptr,
    signs_ptr,
    start_stride,
    g_stride,
    momentum_stride,
    h_stride,
    x_hat_stride,
    codes_stride,
    scales_stride,
    signs_stride,
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
    MOVES: tl.constexpr,
    BITS: tl.constexpr,
    SIGNS: tl.constexpr,
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
    step = tl.load(step_ptr + agent * step_step)
    if STEPS:
        _, _, model, moved, _, _ = local_rows(
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
        tl.store(h_ptr + row * h_stride + c, model, mask=inside)
        if KIND == 1:
            moved = kept(moved, momentum_ptr, seed, first_agent + agent, step, begin, MOMENTUM)
            tl.store(momentum_ptr + row * momentum_stride + c, moved, mask=inside)
    else:
        model = tl.load(start_ptr + row * start_stride + c, mask=inside, other=0.0)
    x_hat = widened(tl.load(x_hat_ptr + row * x_hat_stride + c, mask=inside, other=0.0))
    t = model - x_hat
    inverse, scale = steps_of(row_tops(t, 0), levels)
    codes, value, square, lost = quantized(
        t, inverse, scale, seed, first_agent + agent, step, begin, levels
    )
    if MOVES:
        x_hat = kept(x_hat + value, x_hat_ptr, seed, first_agent + agent, step, begin, COPIES)
        tl.store(x_hat_ptr + row * x_hat_stride + c, x_hat, mask=inside)
    writes = begin < end
    tl.store(scales_ptr + agent * scales_stride + bucket, scale, mask=writes)
    if SIGNS:
        store_packed(codes_ptr, tl.abs(codes), agent, begin, end, codes_stride, BITS)
        store_packed(signs_ptr, (codes < 0).to(tl.int32), agent, begin, end, signs_stride, 1)
    else:
        store_packed(codes_ptr, codes & ((1 << BITS) - 1), agent, begin, end, codes_stride, BITS)
    place = partial_ptr + agent * (2 * buckets) + bucket
    tl.store(place, square, mask=writes)
    tl.store(place + buckets, lost, mask=writes)


def launch(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor | None,
    momentum: torch.Tensor | None,
    h: torch.Tensor | None,
    x_hat: torch.Tensor,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    moves: bool,
    levels: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    codes: torch.Tensor,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
    squares: torch.Tensor,
    active: torch.Tensor | None = None,
) -> None:
    agents, columns = x.shape
    count = buckets.shape[0]
    start = x if saved is None else saved
    norm = gated(norm, active)
    partial = torch.empty(agents, 2, count, dtype=torch.float32, device=x.device)
    moments = x if momentum is None else as_bits(momentum)
    rows = (start, x if g is None else g, moments, x if h is None else h, as_bits(x_hat))
    sent = (codes, scales, codes if signs is None else signs)
    programs, divides, tiles = tile_shape(agents, columns, buckets, bucket)
    flags: dict[str, Any] = {"NESTEROV": nesterov, "MAXIMIZE": maximize, "MOVES": moves}
    choco_encode_kernel[(programs,)](
        *rows,
        buckets,
        partial,
        lr,
        weight_decay,
        beta,
        lr if norm is None else norm,
        step,
        *sent,
        *(tensor.stride(0) for tensor in (*rows, *sent)),
        lr.dim(),
        weight_decay.dim(),
        beta.dim(),
        step.dim(),
        agents,
        columns,
        count,
        *divides,
        levels,
        seed,
        first_agent,
        STEPS=g is not None,
        KIND=kind,
        GATED=norm is not None,
        BITS=bits,
        SIGNS=signs is not None,
        **flags,
        **tiles,
        **EXACT,
    )
    finish_squares(partial, squares)
