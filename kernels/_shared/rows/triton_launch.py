"""How Triton ops are launched: exact arithmetic, and block shapes from the number of agents."""

import triton

# multiply-add must not be fused: the bits are those of the reference
EXACT = {"enable_fp_fusion": False}

# for sums that carry a tolerance; said aloud, because Triton's default differs between versions
FUSED = {"enable_fp_fusion": True}

# columns of one program in kernels that take one agent's slice
STREAM_COLUMNS = 1024

# all agents of a slice fit one program up to here without spilling registers
FUSED_AGENTS = 256


def fused_shape(agents: int) -> tuple[int, int, int]:
    """(padded agents, columns, warps) of a program that holds all agents of a slice."""
    padded = triton.next_power_of_2(agents)
    # eight elements a thread: with sixteen, 256 agents spill on sm_80
    columns = min(max(32, 1024 // padded), 4096 // padded)
    return padded, columns, padded * columns // 256
