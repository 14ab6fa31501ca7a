"""The groups in the order of their accuracy: a dot with its interval for each, on one scale, beside lead and cost."""

from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from fastsaddle.sim.comparison.differences import difference, interval
from fastsaddle.sim.comparison.results import printed
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.report.verdict import Task, within
from fastsaddle.sim.run.scales import lowest_shown

MOST_LINES = 10
# of the drawing in a line, in its own units
WIDTH, HEIGHT, EDGE = 240, 22, 10
MOST_TICKS = 4
# shares: the least that the scale spans, and how far it follows intervals beyond the means, in spans of these
LEAST_SPAN, REACH = 0.004, 1.5
# the costs that are shown, with short titles
COSTS = (
    ("bytes", "MB sent"),
    ("gradient_evaluations", "gradients"),
    ("step_milliseconds", "ms a step"),
    ("sam_sharpness", "SAM sharpness"),
)


@dataclass(frozen=True)
class Line:
    """A group: its label, its dot, its accuracy, how far it is behind, what it cost."""

    label: str
    dot: Markup
    accuracy: str
    behind: str
    costs: list[str]


@dataclass(frozen=True)
class Ranking:
    """What stands under the verdict; `left_out` are the groups that only the table of results has."""

    axis: Markup
    titles: list[str]
    lines: list[Line]
    left_out: int


class _Scale:
    """Places of shares along the drawing."""

    def __init__(self, groups: list[RunGroup]) -> None:
        means = [m for g in groups if (m := g.summary.mean("accuracy")) is not None]
        lowest, highest = lowest_shown(means), max(means)
        span = max(highest - lowest, LEAST_SPAN)
        low, high = lowest, highest
        for g in groups:
            mean = g.summary.mean("accuracy")
            first, last = interval(g.summary, "accuracy")
            if mean is not None and mean >= lowest and first is not None and last is not None:
                low, high = min(low, first), max(high, last)
        middle = (lowest + highest) / 2
        self.low = max(0.0, low, min(lowest, middle - span / 2) - REACH * span)
        self.high = min(1.0, high, max(highest, middle + span / 2) + REACH * span)
        if self.high - self.low < span:
            self.low, self.high = max(0.0, middle - span), min(1.0, middle + span)

    def at(self, share: float) -> float:
        """Place of a share, beyond the edges for one that is off the scale."""
        return EDGE + (share - self.low) / (self.high - self.low) * (WIDTH - 2 * EDGE)

    def ticks(self) -> list[float]:
        """Round shares inside."""
        values = MaxNLocator(MOST_TICKS).tick_values(100 * self.low, 100 * self.high)
        return [v / 100 for v in values if self.low <= v / 100 <= self.high]


def draw(found: list[Task]) -> Ranking | None:
    """The ranking of the tasks' groups, each task's best first; None where no group has an accuracy."""
    groups = [g for task in found for g in task.ranked]
    if not groups:
        return None
    shown = groups[:MOST_LINES]
    failed = [g for task in found for g in task.groups if g not in task.ranked]
    scale = _Scale(shown)
    costs = [c for c in COSTS if any(g.summary.values(c[0]) for g in shown)]
    best = {id(g): task.best for task in found for g in task.ranked}
    lines = []
    for g in shown:
        first = best[id(g)]
        assert first is not None
        lines.append(_line(g, first, scale, costs))
    return Ranking(
        _axis(scale),
        [title for _, title in costs],
        lines,
        len(groups) + len(failed) - len(shown),
    )


def _line(group: RunGroup, best: RunGroup, scale: _Scale, costs: list[tuple[str, str]]) -> Line:
    mean = group.summary.mean("accuracy")
    assert mean is not None
    low, high = interval(group.summary, "accuracy")
    accuracy = f"{100 * mean:.2f}"
    if low is not None and high is not None:
        accuracy += f" ± {50 * (high - low):.2f}"
    values = []
    for measure, _ in costs:
        value = group.summary.mean(measure)
        values.append("-" if value is None else printed(measure, value))
    label = group.label
    if group.summary.diverged:
        label += f" ({group.summary.diverged} of {len(group.runs)} diverged)"
    behind = "" if group is best else _behind(group, best)
    dot = _dot(scale, mean, low, high, f"{group.label}: {accuracy} %", group is best)
    return Line(label, dot, accuracy, behind, values)


def _behind(group: RunGroup, best: RunGroup) -> str:
    d = difference(best.summary, group.summary, "accuracy")
    if d is None:
        return ""
    return f"{100 * d.mean:.2f}" + ("" if d.low is None else f" ({within(d)})")


def _dot(
    scale: _Scale, mean: float, low: float | None, high: float | None, said: str, is_best: bool
) -> Markup:
    """A dot with its interval; an arrow at the edge for what lies beyond."""
    y, left, right = HEIGHT / 2, EDGE / 2, WIDTH - EDGE / 2
    parts = [_grid(scale)]
    if low is not None and high is not None:
        a, b = (min(max(scale.at(v), left), right) for v in (low, high))
        parts.append(Markup('<line x1="{:.1f}" y1="{}" x2="{:.1f}" y2="{}"/>').format(a, y, b, y))
        for place, value, inward in ((a, low, 5), (b, high, -5)):
            # a bar where the interval ends, an arrow where only the drawing does
            if abs(scale.at(value) - place) < 0.1:
                parts.append(
                    Markup('<line x1="{0:.1f}" y1="{1}" x2="{0:.1f}" y2="{2}"/>').format(
                        place, y - 4, y + 4
                    )
                )
            elif left <= scale.at(mean) <= right:
                parts.append(_arrow(place, y, inward))
    x = scale.at(mean)
    if x < left:
        parts.append(_arrow(2, y, 8))
    else:
        parts.append(Markup('<circle cx="{:.1f}" cy="{}" r="4.5"/>').format(x, y))
    return Markup(
        '<svg class="dot{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        '<title>{}</title><rect width="{}" height="{}" fill="none" pointer-events="all"/>{}</svg>'
    ).format(
        " best" if is_best else "",
        *(WIDTH, HEIGHT, WIDTH, HEIGHT, said, said, WIDTH, HEIGHT, Markup("").join(parts)),
    )


def _arrow(x: float, y: float, inward: float) -> Markup:
    return Markup('<path d="M{:.1f} {}l{} -4v8z"/>').format(x, y, inward)


def _grid(scale: _Scale) -> Markup:
    return Markup("").join(
        Markup('<line class="grid" x1="{0:.1f}" y1="0" x2="{0:.1f}" y2="{1}"/>').format(
            scale.at(tick), HEIGHT
        )
        for tick in scale.ticks()
    )


def _axis(scale: _Scale) -> Markup:
    ticks = scale.ticks()
    digits = 0 if all(abs(100 * t - round(100 * t)) < 1e-6 for t in ticks) else 1
    if digits and any(abs(1000 * t - round(1000 * t)) > 1e-6 for t in ticks):
        digits = 2
    texts = Markup("").join(
        Markup('<text x="{:.1f}" y="12" text-anchor="middle">{}</text>').format(
            scale.at(tick), f"{100 * tick:.{digits}f}"
        )
        for tick in ticks
    )
    return Markup(
        '<svg class="dot" viewBox="0 0 {} 16" width="{}" height="16" aria-hidden="true">{}</svg>'
    ).format(WIDTH, WIDTH, texts)
