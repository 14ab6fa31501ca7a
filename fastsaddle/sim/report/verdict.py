"""What the runs came to, in a few sentences: which group is best, by how much, what seeds can show, at what cost."""

from dataclasses import dataclass
from typing import Any

from fastsaddle.sim.comparison.differences import OF_TASK, Difference, difference
from fastsaddle.sim.comparison.results import describe, name_value, printed
from fastsaddle.sim.report.groups import RunGroup

MOST_TASKS = 5
MOST_NAMED = 4
# what makes up the cost of a group: measure, its name
COSTS = (
    ("gradient_evaluations", "gradients an agent"),
    ("bytes", "MB an agent"),
    ("step_milliseconds", "ms a step"),
)


@dataclass(frozen=True)
class Task:
    """Groups on the same data, best first; `name` says which, empty where all groups have the same."""

    name: str
    ranked: list[RunGroup]
    groups: list[RunGroup]

    @property
    def best(self) -> RunGroup | None:
        """The group with the highest accuracy; None where none has been measured."""
        return self.ranked[0] if self.ranked else None


def tasks(groups: list[RunGroup]) -> list[Task]:
    """The groups by their data, in the order in which they come."""
    differing = [n for n in OF_TASK if len({str(g.options[n]) for g in groups}) > 1]
    found: dict[str, list[RunGroup]] = {}
    for g in groups:
        found.setdefault(", ".join(name_value(n, g.options[n]) for n in differing), []).append(g)
    return [Task(name, _ranked(mine), mine) for name, mine in found.items()]


def of_groups(groups: list[RunGroup]) -> list[str]:
    """The verdict on several groups, a sentence or a few for each entry."""
    found = tasks(groups)
    said = []
    if any(not run.is_finished and run.diverged is None for g in groups for run in g.runs):
        said.append("So far: runs are still under way, and what follows may change.")
    if all(len(task.groups) == 1 for task in found):
        said.append(_over_tasks(found))
    else:
        for task in found[:MOST_TASKS]:
            said += _of_task(task)
        if len(found) > MOST_TASKS:
            said.append(f"{len(found) - MOST_TASKS} more are in the table of results.")
    if failed := [g for g in groups if g.summary.diverged]:
        texts = [f"{g.label} ({g.summary.diverged} of {len(g.runs)})" for g in failed]
        said.append(f"Diverged: {listed(texts)}.")
    return said


def listed(texts: list[str], most: int = MOST_NAMED) -> str:
    """A, B and C; of more than `most` the first and how many follow."""
    if len(texts) > most:
        texts = [*texts[: most - 1], f"{len(texts) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def points(value: float, digits: int = 2) -> str:
    """A difference of shares in percentage points, without a sign."""
    return f"{abs(value) * 100:.{digits}f} points"


def within(d: Difference, factor: float = 100, digits: int = 2) -> str:
    """The interval in words, 0.10 to 0.45."""
    low, high = sorted(((d.low or 0.0) * factor, (d.high or 0.0) * factor))
    return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _of_task(task: Task) -> list[str]:
    """Who leads, and a second entry: who follows, and at what cost."""
    best = task.best
    opening = f"{task.name}: " if task.name else ""
    if best is None:
        return [f"{opening}no run has an accuracy." if opening else "No run has an accuracy."]
    if len(task.ranked) == 1:
        only = f"{_name(best)} has {_percent(best)} consensus accuracy"
        return [f"{opening}{only}; there is nothing to compare it with."]
    second = task.ranked[1]
    d = difference(best.summary, second.summary, "accuracy")
    assert d is not None
    further = filter(None, [_rest(best, task.ranked[1:], d), _cost(best, second)])
    return list(filter(None, [opening + _lead(best, second, d), " ".join(further)]))


def _lead(best: RunGroup, second: RunGroup, d: Difference) -> str:
    name, other, accuracy = _name(best), _name(second), _percent(best)
    if d.mean == 0:
        return f"{name} and {other} are equal at {accuracy} consensus accuracy."
    ahead = f"{accuracy} consensus accuracy, {points(d.mean)} above {other}"
    if d.low is None:
        few = "one seed" if d.seeds == 1 else f"{d.seeds} seeds"
        return f"{name} leads with {ahead}; {few} cannot show whether by chance."
    over = f"{d.seeds} paired seeds" if d.is_paired else f"{d.seeds} seeds"
    how = f"95% interval {within(d)}"
    if d.shows:
        return f"{name} wins with {ahead} ({how}, {over})."
    return f"{name} leads with {ahead}: no difference that {over} can show ({how})."


def _rest(best: RunGroup, others: list[RunGroup], lead: Difference) -> str:
    """Which of the others are behind by more than chance, and which may not be."""
    if lead.low is None or len(others) < 2:
        return ""
    behind: list[tuple[RunGroup, Difference]] = []
    open_: list[tuple[RunGroup, Difference]] = []
    for g in others:
        d = difference(best.summary, g.summary, "accuracy")
        if d is not None and d.low is not None:
            (behind if d.shows else open_).append((g, d))
    sentences = []
    further = [_name(g) for g, _ in open_ if g is not others[0]]
    if further:
        sentences.append(
            f"{listed(further)} cannot be told from it either."
            if not lead.shows
            else f"{listed(further)} cannot be told from it."
        )
    if lost := [f"{_name(g)} by {points(d.mean)}" for g, d in behind if g is not others[0]]:
        sentences.append(f"Behind by more than chance: {listed(lost)}.")
    return " ".join(sentences)


def _cost(best: RunGroup, second: RunGroup) -> str:
    """What the best two groups took, and what minima they found."""
    said = [f"{_name(g)} took {text}." for g in (best, second) if (text := _took(g))]
    return " ".join([*said, *_minimum(best, second)])


def _took(group: RunGroup) -> str:
    means = [(m, group.summary.mean(m), name) for m, name in COSTS]
    return listed([f"{printed(m, mean)} {name}" for m, mean, name in means if mean is not None])


def _minimum(best: RunGroup, second: RunGroup) -> list[str]:
    measure = "sam_sharpness"
    d = difference(best.summary, second.summary, measure)
    if d is None:
        return []
    mine, its = (printed(measure, g.summary.mean(measure) or 0.0) for g in (best, second))
    numbers = f"SAM sharpness {mine} against {its}"
    if d.shows:
        kind = "flatter" if d.mean < 0 else "sharper"
        return [f"The minimum of {_name(best)} is {kind}: {numbers}."]
    open_ = "" if d.low is None else f", which {d.seeds} seeds cannot tell apart"
    return [f"{numbers}{open_}."]


def _over_tasks(found: list[Task]) -> str:
    """Groups that each have data of their own: a range, and no winner."""
    measured = [task.best for task in found if task.best is not None]
    if not measured:
        return "No run has an accuracy."
    ranked = _ranked(measured)
    low, high = ranked[-1], ranked[0]
    return (
        f"Consensus accuracy goes from {_percent(low)} ({low.label}) to {_percent(high)} ({high.label}). "
        "Each group has data of its own, so none of them wins."
    )


def _ranked(groups: list[RunGroup]) -> list[RunGroup]:
    measured = [(mean, g) for g in groups if (mean := g.summary.mean("accuracy")) is not None]
    return [g for _, g in sorted(measured, key=lambda pair: -pair[0])]


def _name(group: RunGroup) -> str:
    """A group's label without the options of its data, which its task tells."""
    own: dict[str, Any] = {n: v for n, v in group.summary.own.items() if n not in OF_TASK}
    return describe(own) or group.label


def _percent(group: RunGroup) -> str:
    return f"{(group.summary.mean('accuracy') or 0.0):.2%}"
