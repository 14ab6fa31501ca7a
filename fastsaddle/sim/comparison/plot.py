"""The one picture of a comparison: accuracy over a swept option, or learning curves with bands."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fastsaddle.sim.comparison.dots import draw_dots
from fastsaddle.sim.comparison.results import Group
from fastsaddle.sim.run.plots import (
    entitle,
    legend_below,
    line_style,
    save,
    tidy,
    verbatim,
    zoom,
)
from fastsaddle.sim.run.scales import lowest_shown

MARKERS = "osD^v<>"
POINTS_OF_A_SWEEP = 3
# more lines than colors are a tangle
MOST_CURVES = 14
# bytes get a panel of their own where they differ by more than this
FEWER_BYTES = 1.5
# measures that a sweep draws below the accuracy where runs have them
BELOW = (
    ("sam_sharpness", "SAM sharpness"),
    ("top_eigenvalue", "top Hessian eigenvalue"),
    ("step_milliseconds", "ms a step"),
)


def draw(path: Path, groups: list[Group], tuned: tuple[str, ...], title: str) -> None:
    """Write the picture of a comparison."""
    save(picture(groups, tuned, title), path)


def picture(groups: list[Group], tuned: tuple[str, ...], title: str) -> Figure:
    """A swept option where there is one (three values or more, not tuned), else curves; dots for many groups."""
    swept = swept_option(groups, tuned)
    if swept is not None:
        return _sweep(groups, swept, tuned, title)
    return (_curves if is_of_curves(groups, tuned) else draw_dots)(groups, title)


def is_of_curves(groups: list[Group], tuned: tuple[str, ...]) -> bool:
    """Whether the picture of these groups has their learning curves."""
    return swept_option(groups, tuned) is None and len(groups) <= MOST_CURVES


def swept_option(groups: list[Group], tuned: tuple[str, ...]) -> str | None:
    """The numeric option with the most values in the comparison; None where none has three."""
    named = groups[0].named or groups[0].options if groups else ()
    names = [name for name in named if name not in tuned]
    counts = {name: len(_numbers(groups, name)) for name in names}
    best = max(counts, key=lambda name: counts[name], default=None)
    return best if best is not None and counts[best] >= POINTS_OF_A_SWEEP else None


def _numbers(groups: list[Group], name: str) -> list[float]:
    values = {g.options[name] for g in groups}
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return sorted(values) if numeric else []


def _sweep(groups: list[Group], swept: str, tuned: tuple[str, ...], title: str) -> Figure:
    below = [m for m in BELOW if any(g.values(m[0]) for g in groups)]
    below = below if any(name != "step_milliseconds" for name, _ in below) else []
    rows = 1 + len(below)
    figure = Figure(figsize=(7, 2.4 + 2.1 * rows), layout="constrained")
    entitle(figure, title)
    panels = np.atleast_1d(
        figure.subplots(rows, 1, sharex=True, height_ratios=[2] + [1] * (rows - 1))
    )
    values = _numbers(groups, swept)
    for number, (label, mine) in enumerate(_series(groups, (swept, *tuned)).items()):
        style = _style(number)
        for axes, (name, _) in zip(panels, (("accuracy", ""), *below), strict=True):
            points = [(g.options[swept], g.mean(name), g.deviation(name) or 0.0) for g in mine]
            whole = sorted(p for p in points if p[1] is not None)
            if whole:
                x, y, e = np.array(whole, dtype=float).T
                axes.errorbar(
                    x, y, e, label=verbatim(label), capsize=3, marker=MARKERS[number % 7], **style
                )
    for axes, (_, text) in zip(panels[1:], below, strict=True):
        axes.set_ylabel(text)
        axes.set_ylim(bottom=0)
    for axes in panels:
        _scale(axes, values)
    _accuracy(panels[0])
    panels[-1].set_xlabel(swept.replace("_", " "))
    if len(_series(groups, (swept, *tuned))) > 1:
        legend_below(figure, panels[0])
    return figure


def _series(groups: list[Group], left_out: tuple[str, ...]) -> dict[str, list[Group]]:
    """The groups that one line joins, by what tells the lines apart."""
    series: dict[str, list[Group]] = {}
    for g in groups:
        rest = replace(g, options={n: v for n, v in g.options.items() if n not in left_out})
        series.setdefault(rest.label, []).append(g)
    return series


def _scale(axes: Axes, values: list[float]) -> None:
    if values[0] > 0 and values[-1] / values[0] >= 20:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.2, values[-1] * 1.2)
    elif values[-1] > 0 and values[0] == 0 and values[-1] / values[1] >= 20:
        axes.set_xscale("symlog", linthresh=values[1])
        axes.set_xlim(-values[1] / 4, values[-1] * 1.3)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    tidy(axes)


def _curves(groups: list[Group], title: str) -> Figure:
    """Accuracy over steps, and over bytes where some methods send far fewer than others."""
    sent = [nbytes for g in groups if (nbytes := g.mean("bytes"))]
    has_bytes = bool(sent) and max(sent) > FEWER_BYTES * min(sent)
    figure = Figure(figsize=(12 if has_bytes else 7, 4.6), layout="constrained")
    has_bands = any(g.deviation("accuracy") is not None for g in groups)
    bands = "\nlines: means over seeds, bands: one standard deviation"
    entitle(figure, title + bands * has_bands)
    panels = figure.subplots(1, 1 + has_bytes, sharey=True, squeeze=False)[0]
    drawn, ends = [], [_end(curve(g)[1]) for g in groups]
    lowest = lowest_shown(ends)
    for number, (g, end) in enumerate(zip(groups, ends, strict=True)):
        steps, mean, deviation = curve(g)
        drawn += [] if end < lowest else [mean - deviation, mean + deviation]
        label = f"{g.label}: {end:.1%}, below the axis" if end < lowest else g.label
        style = _style(number)
        megabytes = steps / max(1, steps[-1]) * (g.mean("bytes") or 0.0) / 1e6
        for axes, x in zip(panels, (steps, megabytes), strict=False):
            axes.plot(x, mean, label=verbatim(label), **style)
            low, high = mean - deviation, mean + deviation
            axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    _accuracy(panels[0])
    zoom(panels[0], drawn)
    panels[0].set_xlabel("step")
    if has_bytes:
        panels[1].set_xlabel("megabytes sent by an agent")
    for axes in panels:
        tidy(axes)
    legend_below(figure, panels[0])
    return figure


def curve(group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all runs of a group evaluated, with the mean and the deviation of their accuracy."""
    runs = [{row["step"]: row["consensus_accuracy"] for row in o.rows} for o in group.outcomes]
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    values = np.array([[run[step] for step in steps] for run in runs], dtype=float)
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
    return np.array(steps), values.mean(axis=0), spread


def _end(mean: np.ndarray) -> float:
    """The last value that is a number; NaN where none is."""
    known = mean[np.isfinite(mean)]
    return float(known[-1]) if known.size else np.nan


def _accuracy(axes: Axes) -> None:
    axes.set_ylabel("consensus accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _style(number: int) -> dict[str, Any]:
    color, style = line_style(number)
    return {"color": color, "linestyle": style, "linewidth": 1.8}
