"""How far two groups are apart: a difference of means with a 95 % interval, paired over seeds where it can be."""

from dataclasses import dataclass

import numpy as np

from fastsaddle.sim.comparison.results import Group

CONFIDENCE = 0.95
# options that make the data which a group is trained and tested on: accuracies of different ones are not ranked
OF_TASK = ("dataset", "partition", "alpha", "feature_skew", "evaluate_on")
# what a seed's split and data depend on besides the seed
OF_DATA = (*OF_TASK, "agents")
# relative to the values: differences nearer to each other differ by rounding
ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """The mean of one group less that of another, in the measure's own unit.

    `low` and `high` bound the 95 % interval, None where too few or equal values give none. `seeds` are the runs of the
    smaller group, `is_paired` says that both have the same seeds on the same data and were compared seed by seed.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    is_paired: bool

    @property
    def shows(self) -> bool:
        """Whether the interval is there and does not contain 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def difference(first: Group, second: Group, measure: str) -> Difference | None:
    """How much more of a measure the first group has than the second; None where one of them has no value.

    Student's t for the differences of seeds that both groups have, Welch's where their seeds or data differ, or where
    all differences are the same: a sample or two of a small test set, which would seem certain. Runs that diverged have
    no value.
    """
    a, b = _by_seed(first, measure), _by_seed(second, measure)
    if not a or not b:
        return None
    # a group may hold a seed twice, which then pairs with nothing
    is_paired = a.keys() == b.keys() and _same_data(first, second)
    is_paired &= all(len(values) == 1 for values in (*a.values(), *b.values()))
    x = np.array([value for seed in a for value in a[seed]])
    y = np.array([value for seed in (a if is_paired else b) for value in b[seed]])
    if is_paired and len(x) > 1 and not np.any(x - y):
        return Difference(0.0, 0.0, 0.0, len(x), is_paired)
    low, high = _of_pairs(x - y) if is_paired else (None, None)
    if low is None:
        low, high = _welch(x, y)
        is_paired &= low is None
    mean = float(x.mean() - y.mean())
    return Difference(mean, low, high, min(len(x), len(y)), is_paired)


def interval(group: Group, measure: str) -> tuple[float | None, float | None]:
    """The 95 % interval of a group's mean by Student's t; None twice for fewer than two different values."""
    return _of_pairs(np.array(group.values(measure)))


def _of_pairs(values: np.ndarray) -> tuple[float | None, float | None]:
    from scipy import stats

    if len(values) < 2 or _is_constant(values):
        return None, None
    found = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return float(found.low), float(found.high)


def _welch(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    # takes half a second to import, which the help of the commands does without
    from scipy import stats

    if min(len(x), len(y)) < 2 or (_is_constant(x) and _is_constant(y)):
        return None, None
    found = stats.ttest_ind(x, y, equal_var=False).confidence_interval(CONFIDENCE)
    return float(found.low), float(found.high)


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def _by_seed(group: Group, measure: str) -> dict[tuple[int, int], list[float]]:
    """Values by the seed and the seed of the split."""
    found: dict[tuple[int, int], list[float]] = {}
    for outcome in group.outcomes:
        config = outcome.cell.config
        value = (outcome.measures or {}).get(measure)
        split = config.seed_of_split
        if value is not None:
            found.setdefault((config.seed, split), []).append(value)
    return found


def _same_data(first: Group, second: Group) -> bool:
    one, other = (g.outcomes[0].cell.config for g in (first, second))
    return all(getattr(one, name) == getattr(other, name) for name in OF_DATA)
