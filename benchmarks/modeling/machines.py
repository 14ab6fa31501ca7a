"""GPUs as the model knows them, and how many programs a multiprocessor holds at once."""

from dataclasses import dataclass

# target -> bytes of shared memory of a multiprocessor, those that each program costs besides its own, 32-bit registers
TARGETS = {
    "sm_80": (164 * 1024, 1024, 2**16),
    "sm_90": (228 * 1024, 1024, 2**16),
    "sm_100": (228 * 1024, 1024, 2**16),
    "gfx942": (64 * 1024, 0, 2**17),
}
# of a multiprocessor
THREADS, PROGRAMS = 2048, 32


@dataclass(frozen=True)
class Machine:
    """A class of GPUs.

    Attributes:
        name: of the class. target: what kernels are compiled for.
        multiprocessors: of the GPU. clock: of these, Hz.
        copy: bytes a second that a copy reads and writes, together. cache: bytes a second out of L2.
        cached: bytes that L2 holds.
        latency: cycles from a load to its value, by where that comes from.
        lanes: numbers that each unit of a multiprocessor takes in a cycle.
    """

    name: str
    target: str
    multiprocessors: int
    clock: float
    copy: float
    cache: float
    cached: int
    latency: dict[str, float]
    lanes: dict[str, int]


LANES = {"load/store": 32, "float64": 64, "special": 16, "float32": 128, "tensor": 128}
# Bandwidths of a copy are 3.0 and 4.3 TB/s as known of H100 and H200, else 0.86 of what the data sheet says, as those
# are; latencies are those that microbenchmarks of each generation report, rounded.
MACHINES = (
    Machine(
        *("A100", "sm_80", 108, 1.41e9, 1.75e12, 4.0e12, 40 * 2**20),
        latency={"memory": 570, "cache": 260, "shared": 30},
        lanes={**LANES, "float64": 32, "float32": 64, "integer": 64},
    ),
    Machine(
        *("H100", "sm_90", 132, 1.75e9, 3.0e12, 5.5e12, 50 * 2**20),
        latency={"memory": 650, "cache": 270, "shared": 30},
        lanes={**LANES, "integer": 64},
    ),
    Machine(
        *("H200", "sm_90", 132, 1.75e9, 4.3e12, 5.5e12, 50 * 2**20),
        latency={"memory": 650, "cache": 270, "shared": 30},
        lanes={**LANES, "integer": 64},
    ),
    Machine(
        *("B200", "sm_100", 148, 1.85e9, 6.9e12, 10e12, 126 * 2**20),
        latency={"memory": 800, "cache": 350, "shared": 30},
        lanes={**LANES, "integer": 64},
    ),
)


def resident_programs(target: str, registers: int, threads: int, shared: int) -> int:
    """How many programs a multiprocessor holds at once.

    Args:
        target: one of TARGETS.
        registers: of a thread. threads: of a program. shared: bytes of shared memory that a program asks for.
    """
    most_shared, each, most_registers = TARGETS[target]
    # registers are handed out in eights
    taken = -(-registers // 8) * 8 * threads
    fitting = min(most_shared // max(1, shared + each), most_registers // taken)
    return min(fitting, THREADS // threads, PROGRAMS)
