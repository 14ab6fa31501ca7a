"""State kept as float32 or bfloat16 in Triton; the twin of reference.py.

Kernels see bfloat16 rows as int16 and know them by that. Casts are not used: Triton's interpreter truncates.
"""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.philox.triton_gpu import halves


@triton.jit
def widened(state):
    """The float32 values of what was loaded."""
    if state.dtype == tl.int16:
        state = (state.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return state


@triton.jit
def rounded(value, draws):
    """The bits of float32 `value` as bfloat16, int16, rounded by 16 random bits each (uint32)."""
    bits = value.to(tl.uint32, bitcast=True)
    quiet = tl.where((bits & 0x7FFFFF) != 0, 0x40, 0).to(tl.uint32)
    special = (bits & 0x7F800000) == 0x7F800000
    high = tl.where(special, (bits >> 16) | quiet, (bits + draws) >> 16)
    return high.to(tl.uint16).to(tl.int16, bitcast=True)


@triton.jit
def kept(value, state_ptr, seed, agent, step, begin, STREAM: tl.constexpr):
    """float32 `value` as the buffer at `state_ptr` keeps it.

    value is `[COLUMNS]`, with one agent, step and first column; or `[ROWS, COLUMNS]`, with those of each row, `[ROWS]`.
    """
    if state_ptr.dtype.element_ty == tl.int16:
        value = rounded(value, halves(value, seed, agent, step, begin, STREAM))
    return value


def as_bits(state: torch.Tensor) -> torch.Tensor:
    """State rows as kernels take them: bfloat16 as int16."""
    return state.view(torch.int16) if state.dtype == torch.bfloat16 else state
