"""Measures over the steps of a group's runs: mean and deviation where all of them have been."""

from dataclasses import dataclass

import numpy as np

from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.report.runs import Run


@dataclass(frozen=True)
class Curve:
    """One line of a figure: `x`, `mean` and `deviation` are `[points]` float64, NaN where a value is not finite.

    `deviation` is the sample standard deviation over `runs` runs, 0 for one. `ends` are the runs that diverged, each
    as its own x and y; they count in nothing else.
    """

    label: str
    panel: str
    runs: int
    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    ends: list[tuple[np.ndarray, np.ndarray]]


def over_steps(group: RunGroup, measure: str) -> Curve:
    """A measure over steps, from the first to the last that all runs have come to.

    Where runs were evaluated at different steps their values are interpolated linearly.
    """
    alive = group.alive
    ends = [
        (_column(run, "step"), _column(run, measure))
        for run in group.runs
        if run.diverged is not None and run.rows
    ]
    if not alive:
        empty = np.empty(0)
        return Curve(group.curve, group.panel, 0, empty, empty, empty, ends)
    steps = common_steps(alive)
    values = np.stack([_at(run, measure, steps) for run in alive])
    spread = values.std(axis=0, ddof=1) if len(alive) > 1 else np.zeros(len(steps))
    return Curve(group.curve, group.panel, len(alive), steps, values.mean(axis=0), spread, ends)


def over_bytes(group: RunGroup, measure: str) -> Curve:
    """A measure over the megabytes that an agent has sent, averaged over the runs at equal steps."""
    curve = over_steps(group, measure)
    sent = over_steps(group, "bytes_sent").mean / megabytes_of(group)
    diverged = [run for run in group.runs if run.diverged is not None and run.rows]
    ends = [
        (_column(run, "bytes_sent") / megabytes_of(group), y)
        for run, (_, y) in zip(diverged, curve.ends, strict=True)
    ]
    return Curve(curve.label, curve.panel, curve.runs, sent, curve.mean, curve.deviation, ends)


def megabytes_of(group: RunGroup) -> float:
    """Bytes of all agents in a megabyte of each."""
    return 1e6 * group.runs[0].config.agents


def common_steps(runs: list[Run]) -> np.ndarray:
    """All steps at which one of the runs was evaluated, between those that every run has passed."""
    columns = [_column(run, "step") for run in runs]
    steps = np.unique(np.concatenate(columns))
    first, last = max(c[0] for c in columns), min(c[-1] for c in columns)
    return steps[(steps >= first) & (steps <= last)]


def are_interpolated(group: RunGroup) -> bool:
    """Whether runs of the group were evaluated at different steps."""
    steps = common_steps(group.alive) if group.alive else np.empty(0)
    return any(not set(steps) <= {row["step"] for row in run.rows} for run in group.alive)


def _column(run: Run, name: str) -> np.ndarray:
    """A value of every row; NaN where it was not finite or an older version did not write it."""
    values = [row.get(name) for row in run.rows]
    column = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isfinite(column), column, np.nan)


def _at(run: Run, name: str, steps: np.ndarray) -> np.ndarray:
    own, column = _column(run, "step"), _column(run, name)
    finite = np.isfinite(column)
    if not finite.any():
        return np.full(len(steps), np.nan)
    values = np.interp(steps, own[finite], column[finite], left=np.nan, right=np.nan)
    values[np.isin(steps, own[~finite])] = np.nan
    return values
