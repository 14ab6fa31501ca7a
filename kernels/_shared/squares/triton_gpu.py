"""The norm of a row from the sums of its slices, as Triton kernels end."""

import triton
import triton.language as tl

from fastsaddle.kernels._shared.step.triton_gpu import is_finite

# partial sums that a program adds at once
LANES = 2048


@triton.jit
def tell_norm(
    sums_ptr,
    gate_ptr,
    norm_ptr,
    skipped_ptr,
    agent,
    slices,
    GATED: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write the agent's norm, its gate where that is not finite, and count it where it is not finite."""
    sums = tl.zeros([LANES], dtype=tl.float64)
    for first in range(0, slices, LANES):
        s = first + tl.arange(0, LANES)
        # past L1, which may hold what was there before
        place = sums_ptr + agent * slices + s
        sums += tl.load(place, mask=s < slices, other=0.0, cache_modifier=".cg")
    result = tl.sqrt(tl.sum(sums, axis=0)).to(tl.float32)
    if GATED:
        gate = tl.load(gate_ptr + agent)
        result = tl.where(is_finite(gate), result, gate)
    tl.store(norm_ptr + agent, result)
    count = tl.load(skipped_ptr + agent)
    tl.store(skipped_ptr + agent, tl.where(is_finite(result), count, count + 1))
