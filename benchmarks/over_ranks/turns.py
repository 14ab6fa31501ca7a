"""Ways to do one thing, timed by turns on all ranks, and ratios between them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# wall and processor seconds of one turn
Turn = tuple[float, float]
# by way, the turns of one rank
Turns = Mapping[str, Sequence[Turn]]


def by_turns(
    ways: Mapping[str, Callable[[], object]], turns: int, calls: int, begin: Callable[[], object]
) -> dict[str, list[Turn]]:
    """Time of `calls` calls of each way, `turns` times over, after one turn that warms up.

    Args:
        ways: what to call, by name; all ranks have the same.
        turns, calls: how often.
        begin: called before each turn, as ranks begin together.
    """
    found: dict[str, list[Turn]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        # no way is always the one that comes first
        for name in sorted(ways, reverse=bool(turn % 2)):
            begin()
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(calls):
                ways[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                found[name].append((wall, cpu))
    return found


def ratio(
    of_ranks: Sequence[Turns], over: str, under: str | Sequence[str], factor: float = 1.0
) -> dict[str, Any]:
    """`over / under * factor`: median and quartiles of the turns' ratios, and the same of processor time.

    A turn takes as long as its slowest rank, and the processor time of all ranks. Of several ways `under` a turn counts
    as the longest by the clock, and as all of them by processor time.
    """

    def of(way: str) -> list[Turn]:
        turns = zip(*(turns[way] for turns in of_ranks), strict=True)
        return [(max(w for w, _ in ranks), sum(c for _, c in ranks)) for ranks in turns]

    below = [of(way) for way in ((under,) if isinstance(under, str) else under)]
    pairs = [*zip(of(over), zip(*below, strict=True), strict=True)]
    walls = [factor * a[0] / max(wall for wall, _ in b) for a, b in pairs]
    cpus = [factor * a[1] / sum(cpu for _, cpu in b) for a, b in pairs]
    return {**spread(walls), "processor": statistics.median(cpus)}


def spread(ratios: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"measured": statistics.median(ratios), "quartiles": [low, high]}
