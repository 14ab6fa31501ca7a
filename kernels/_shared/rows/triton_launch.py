"""How Triton ops are launched: exact arithmetic, and block shapes from the number of agents."""

import triton

# multiply-add must not be fused: the bits are those of the reference
EXACT = {"enable_fp_fusion": False}

# for sums that carry a tolerance; said aloud, because Triton's default differs between versions
FUSED = {"enable_fp_fusion": True}

# columns of one program in kernels that take one agent's slice
STREAM_COLUMNS = 1024

# up to here several programs that hold all agents of a slice share a multiprocessor
FUSED_AGENTS = 64


def fused_shape(agents: int) -> tuple[int, int, int]:
    """(padded agents, columns, warps) of a program that holds all agents of a slice."""
    padded = triton.next_power_of_2(agents)
    columns = max(32, 1024 // padded)
    # eight elements a thread
    return padded, columns, padded * columns // 256
