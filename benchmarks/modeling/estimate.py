"""How much of a copy's bandwidth a launch reaches, by mean value analysis of one multiprocessor.

Its customers are the programs that it holds (the warps, where those of a program do not wait for each other). Each
queues for its share of memory, for its share of L2 and for its units, and waits for its own loads, where nobody else is
in its way. The throughput of such a circle follows customer by customer (Reiser and Lavenberg 1980).
"""

from dataclasses import dataclass

from benchmarks.modeling.launches import Launch
from benchmarks.modeling.machines import Machine

# cycles from one instruction of a warp to the next that needs it, on average; to start a program; at a barrier
DEPENDENT, START, BARRIER = 2.0, 500.0, 30.0
# instructions of a multiprocessor in a cycle, threads of a warp
ISSUED, WARP = 4, 32


@dataclass(frozen=True)
class Factors:
    """What measurements on a device said of the model: factors of what it takes for waiting, and for instructions."""

    waiting: float = 1.0
    work: float = 1.0


def percent_of_copy(launch: Launch, machine: Machine, factors: Factors) -> float:
    """Bytes that the launch must move, in the time that the model takes for it, in percent of a copy's bandwidth."""
    memory, cache = traffic(launch, machine)
    warp, warps = launch.warp, launch.threads // WARP
    a_cycle = machine.multiprocessors * machine.clock
    total = sum(warp.units.values())
    busy = max(
        total / ISSUED, *(count * WARP / machine.lanes[u] for u, count in warp.units.items())
    )
    alone = (
        START
        + DEPENDENT * total
        + BARRIER * warp.barriers
        + sum(machine.latency[place] * often for place, often in warp.rounds.items())
    )
    # of a program
    demands = [
        memory / launch.programs * a_cycle / machine.copy,
        cache / launch.programs * a_cycle / machine.cache,
        factors.work * busy * warps,
    ]
    customers = min(launch.resident, max(1, round(launch.programs / machine.multiprocessors)))
    # a walking program's slices follow each other like programs
    if warp.barriers:
        programs_a_cycle = throughput(demands, factors.waiting * alone, customers)
    else:
        of_a_warp = [demand / warps for demand in demands]
        programs_a_cycle = throughput(of_a_warp, factors.waiting * alone, customers * warps) / warps
    must = launch.floor / launch.programs * a_cycle / machine.copy
    return 100 * programs_a_cycle * must


def traffic(launch: Launch, machine: Machine) -> tuple[float, float]:
    """Bytes from and to memory, and those that L2 has: unless what programs take at once exceeds it.

    Then what is read again comes from memory, but of a buffer that fits half of L2. Hints are taken at their word: what
    is to leave first takes no place from the rest.
    """
    memory, again = launch.floor, sum(buffer.again for buffer in launch.buffers)
    at_once = min(launch.programs, launch.resident * machine.multiprocessors)
    share = at_once / (launch.programs * launch.turns)
    held: dict[int, float] = {}
    for buffer in launch.buffers:
        if not buffer.leaves:
            # written where it was read, a buffer takes its place once
            taken = buffer.size if buffer.stays else buffer.first * share
            held[buffer.name] = max(held.get(buffer.name, 0.0), taken)
    if sum(held.values()) > machine.cached:
        missing = sum(b.again for b in launch.buffers if b.size > machine.cached / 2)
        memory, again = memory + missing, again - missing
    return memory, again


def throughput(demands: list[float], alone: float, customers: int) -> float:
    """Customers a cycle that go round: `demands` are cycles at each place with a queue, `alone` those without one."""
    queues, rate = [0.0] * len(demands), 0.0
    for number in range(1, customers + 1):
        times = [demand * (1 + waiting) for demand, waiting in zip(demands, queues, strict=True)]
        rate = number / (alone + sum(times))
        queues = [rate * time for time in times]
    return rate
