"""Which accuracies a scale is made for: one method that is far off must not make all others look alike."""

import math
from collections.abc import Iterable

# how many times as far as the others reach one of them has to lie, and what counts as their reach at least
FAR, LEAST_REACH = 4.0, 0.01


def lowest_shown(accuracies: Iterable[float]) -> float:
    """The lowest of the shares that a common scale has to show.

    That is the lowest of all, but where some, at most half of them, lie four times as far below the best as the others
    do. What is not finite counts as not there; 0 where nothing is.
    """
    ranked = sorted(filter(math.isfinite, accuracies), reverse=True)
    if not ranked:
        return 0.0
    best, lowest = ranked[0], ranked[-1]
    for kept in range(len(ranked) - 1, max(1, (len(ranked) - 1) // 2), -1):
        if best - ranked[kept] > FAR * max(best - ranked[kept - 1], LEAST_REACH):
            lowest = ranked[kept - 1]
    return lowest
