"""agent_norm in Triton, one launch: programs sum slices, and an agent's last one adds its partial sums in order."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.tickets_triton import tickets
from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS
from fastsaddle.kernels._shared.squares.reference import SLICE
from fastsaddle.kernels._shared.squares.triton_gpu import LANES, tell_norm


@triton.jit
def agent_norm_kernel(
    g_ptr,
    scale_ptr,
    gate_ptr,
    partial_ptr,
    norm_ptr,
    skipped_ptr,
    tickets_ptr,
    g_stride,
    scale_stride,
    columns,
    slices,
    SCALED: tl.constexpr,
    GATED: tl.constexpr,
    SLICE: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
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
    # whichever thread stored, it has before a ticket is drawn
    tl.debug_barrier()
    ticket = tl.atomic_add(tickets_ptr + agent, 1, sem="acq_rel", scope="gpu")
    if ticket == slices - 1:
        tell_norm(partial_ptr, gate_ptr, norm_ptr, skipped_ptr, agent, slices, GATED, LANES)
        tl.store(tickets_ptr + agent, 0)


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
    agent_norm_kernel[(agents * slices,)](
        g,
        g if scale is None else scale,
        norm if gate is None else gate,
        partial,
        norm,
        skipped,
        tickets(agents, g.device),
        g.stride(0),
        g.stride(0) if scale is None else scale.stride(0),
        columns,
        slices,
        SCALED=scale is not None,
        GATED=gate is not None,
        SLICE=SLICE,
        COLUMNS=STREAM_COLUMNS,
        LANES=LANES,
        **EXACT,
    )
