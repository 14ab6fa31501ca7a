"""agent_norm in Triton: partial sums of slices, then one program an agent adds them in order."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._step_triton import is_finite
from fastsaddle.kernels._triton_launch import EXACT, STREAM_COLUMNS

SLICE = 8192


@triton.jit
def agent_norm_slices_kernel(
    g_ptr,
    scale_ptr,
    partial_ptr,
    g_stride,
    scale_stride,
    columns,
    slices,
    SCALED: tl.constexpr,
    SLICE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    agent = (tl.program_id(0) // slices).to(tl.int64)
    part = tl.program_id(0) % slices
    lanes = tl.zeros([COLUMNS], dtype=tl.float64)
    for offset in tl.static_range(0, SLICE, COLUMNS):
        c = part * SLICE + offset + tl.arange(0, COLUMNS)
        inside = c < columns
        value = tl.load(g_ptr + agent * g_stride + c, mask=inside, other=0.0)
        if SCALED:
            value = value * tl.load(scale_ptr + agent * scale_stride + c, mask=inside, other=0.0)
        wide = value.to(tl.float64)
        lanes += wide * wide
    tl.store(partial_ptr + agent * slices + part, tl.sum(lanes, axis=0))


@triton.jit
def agent_norm_finish_kernel(
    partial_ptr, gate_ptr, norm_ptr, skipped_ptr, slices, GATED: tl.constexpr
):
    agent = tl.program_id(0).to(tl.int64)
    total = tl.zeros([], dtype=tl.float64)
    for part in range(slices):
        total += tl.load(partial_ptr + agent * slices + part)
    result = tl.sqrt(total).to(tl.float32)
    if GATED:
        gate = tl.load(gate_ptr + agent)
        result = tl.where(is_finite(gate), result, gate)
    tl.store(norm_ptr + agent, result)
    count = tl.load(skipped_ptr + agent)
    tl.store(skipped_ptr + agent, tl.where(is_finite(result), count, count + 1))


def launch(
    g: torch.Tensor,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    norm: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    agents, columns = g.shape
    slices = triton.cdiv(columns, SLICE)
    partial = torch.empty(agents, slices, dtype=torch.float64, device=g.device)
    agent_norm_slices_kernel[(agents * slices,)](
        g,
        g if scale is None else scale,
        partial,
        g.stride(0),
        g.stride(0) if scale is None else scale.stride(0),
        columns,
        slices,
        SCALED=scale is not None,
        SLICE=SLICE,
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
    agent_norm_finish_kernel[(agents,)](
        partial,
        norm if gate is None else gate,
        norm,
        skipped,
        slices,
        GATED=gate is not None,
        **EXACT,
    )
