"""What the runs of one group came to: accuracy, best and when, agents, cost, and whether they were still rising."""

import math
import statistics

import numpy as np

from fastsaddle.sim.comparison.differences import interval
from fastsaddle.sim.comparison.results import BY_NAME
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.report.runs import Run

# the last of so many parts tells whether a run was still rising, which takes a few evaluations
LAST_PART, LEAST_EVALUATIONS = 3, 4
# shares: a rise by less is none
LEAST_RISE = 0.002
# a line through scatter alone is as steep by this chance
LEAST_CHANCE = 0.05
TILES = (
    ("accuracy", "consensus accuracy", "%"),
    ("best", "best", "%"),
    ("mean_accuracy", "agents' mean", "%"),
    ("worst_accuracy", "worst agent", "%"),
    ("distance", "consensus distance", ""),
    ("bytes", "sent by an agent", " MB"),
    ("compression_error", "compression error", "%"),
    ("gradient_evaluations", "gradients of an agent", ""),
    ("seconds", "time", " s"),
    ("step_milliseconds", "time of a step", " ms"),
    ("sam_sharpness", "SAM sharpness", ""),
    ("top_eigenvalue", "top eigenvalue", ""),
    ("hessian_trace", "Hessian trace", ""),
    ("mean_valley", "mean valley", ""),
)
OF_SEVERAL_AGENTS = ("mean_accuracy", "worst_accuracy", "distance", "bytes")


def sentences(group: RunGroup) -> list[str]:
    """The verdict on one group of runs, in a few sentences."""
    said = [*_states(group)]
    summary = group.summary
    accuracy = summary.mean("accuracy")
    if accuracy is None:
        return said or ["No run has an accuracy."]
    low, high = interval(summary, "accuracy")
    counted = len(summary.values("accuracy"))
    steps = sorted({run.step for run in group.alive if run.rows})
    after = f"after {steps[-1]:,} steps" if len(steps) == 1 else "after their last steps"
    line = f"{accuracy:.2%} consensus accuracy {after}"
    if counted > 1 and low is not None and high is not None:
        line += f", the mean of {counted} seeds (95% interval {max(0.0, low):.2%} to {min(1.0, high):.2%})"
    said.append(" ".join([f"{line}{_best(group)}.", *_course(group)]))
    if text := _agents(group):
        said.append(text)
    return said


def tiles(group: RunGroup) -> list[tuple[str, str]]:
    """Measures and their values in words, as many as the runs have."""
    found = []
    for measure, name, unit in TILES:
        if measure in OF_SEVERAL_AGENTS and group.options["agents"] == 1:
            continue
        values = _distances(group) if measure == "distance" else group.summary.values(measure)
        if values:
            _, factor, digits = BY_NAME.get(measure, ("", 1, 3))
            text = f"{statistics.fmean(values) * factor:,.{digits}f}"
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            if deviation or (len(values) > 1 and digits > 1):
                text += f" ± {deviation * factor:,.{digits}f}"
            found.append((name, text + unit))
    return found


def trend(run: Run) -> float | None:
    """By how much the accuracy rose over the last third of a run, along a line through it.

    0 where that is less than 0.2 points, NaN where the evaluations scatter more; None for too few of them.
    """
    from scipy import stats

    known = [
        (row["step"], row["consensus_accuracy"])
        for row in run.rows
        if row.get("consensus_accuracy") is not None
        and row["step"] * LAST_PART >= run.step * (LAST_PART - 1)
    ]
    if len(known) < LEAST_EVALUATIONS:
        return None
    steps, accuracies = np.array(known, dtype=float).T
    line = stats.linregress(steps, accuracies)
    rise = float(line.slope * (steps[-1] - steps[0]))
    if abs(rise) < LEAST_RISE:
        return 0.0
    return rise if line.pvalue < LEAST_CHANCE else math.nan


def _states(group: RunGroup) -> list[str]:
    """How runs stand that did not finish."""
    if len(group.runs) == 1:
        run = group.runs[0]
        if run.is_finished:
            return []
        # a message's own full stop would be a second one
        return [f"{run.state[0].upper()}{run.state[1:].removesuffix('.')}."]
    said = []
    if diverged := group.summary.diverged:
        said.append(f"{diverged} of {len(group.runs)} runs diverged.")
    if under_way := sum(not r.is_finished for r in group.alive):
        said.append(f"{under_way} of {len(group.runs)} runs are under way.")
    return said


def _best(group: RunGroup) -> str:
    """Best and when, of one run."""
    if len(group.alive) != 1:
        return ""
    (run,) = group.alive
    known = [
        (a, -row["step"]) for row in run.rows if (a := row.get("consensus_accuracy")) is not None
    ]
    best, step = max(known)
    last = run.rows[-1].get("consensus_accuracy")
    return ", its best" if best == last else f"; its best was {best:.2%} at step {-step:,}"


def _course(group: RunGroup) -> list[str]:
    """Whether the runs were still rising when they ended."""
    rises = [rise for run in group.alive if (rise := trend(run)) is not None]
    if not rises:
        return []
    up, down = sum(r > 0 for r in rises), sum(r < 0 for r in rises)
    many = f" in {up or down} of {len(rises)} runs" if len(rises) > 1 else ""
    if up:
        mean = statistics.fmean(r for r in rises if r > 0)
        return [f"It was still rising{many}: by {mean * 100:.1f} points over the last third."]
    if down:
        mean = statistics.fmean(-r for r in rises if r < 0)
        return [f"It was falling{many}: by {mean * 100:.1f} points over the last third."]
    if any(map(math.isnan, rises)):
        return ["Its last third has no clear trend."]
    return ["It was level over the last third."]


def _agents(group: RunGroup) -> str:
    """How far the agents are from their consensus."""
    accuracy, worst = (group.summary.mean(n) for n in ("accuracy", "worst_accuracy"))
    if group.options["agents"] == 1 or worst is None or accuracy is None:
        return ""
    gap = (accuracy - worst) * 100
    side = "below" if gap >= 0 else "above"
    text = f"The worst agent has {worst:.2%}, {abs(gap):.2f} points {side} the consensus"
    distances = _distances(group)
    if distances and max(distances) == 0:
        return f"{text}, with which all agents agree."
    return (
        f"{text}; agents are {statistics.fmean(distances):.3g} from it."
        if distances
        else f"{text}."
    )


def _distances(group: RunGroup) -> list[float]:
    """Consensus distances at the end."""
    last = [run.rows[-1].get("consensus_distance") for run in group.alive if run.rows]
    return [value for value in last if value is not None]
