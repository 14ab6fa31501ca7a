"""Many methods side by side: a line for each, dots with deviations for each measure."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastsaddle.sim.comparison.results import Group, describe, name_value
from fastsaddle.sim.run.plots import COLORS, entitle, legend_below, tidy, verbatim

# what panels show where runs have it: measure, title, factor
PANELS = (
    ("accuracy", "consensus accuracy %", 100),
    ("sam_sharpness", "SAM sharpness", 1),
    ("hessian_trace", "Hessian trace", 1),
    ("bytes", "MB sent an agent", 1e-6),
)
MARKERS = "osD^v<>"
# a measure that spreads further than this is drawn on a logarithmic scale
WIDE = 20


def draw_dots(groups: list[Group], title: str) -> Figure:
    """Accuracy, sharpness and bytes of every method; colors tell the values of one numeric option, such as alpha."""
    split = _split(groups)
    rows: dict[str, list[Group]] = {}
    for g in groups:
        named = g.named or tuple(g.options)
        text = describe({n: v for n, v in g.own.items() if n in named and n != split})
        rows.setdefault(text or "run", []).append(g)
    kinds = list(dict.fromkeys(g.options.get(split or "") for g in groups))
    panels = [p for p in PANELS if any(g.values(p[0]) for g in groups)]
    figure = Figure(figsize=(3 + 2.6 * len(panels), 1.4 + 0.28 * len(rows)), layout="constrained")
    entitle(figure, title)
    drawn = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (measure, text, factor) in zip(drawn, panels, strict=True):
        for number, kind in enumerate(kinds):
            label = "" if split is None else verbatim(name_value(split, kind))
            mine = [
                next((g for g in r if g.options.get(split or "") == kind), None)
                for r in rows.values()
            ]
            # side by side, or equal values would hide each other
            shift = 0.22 * (number - (len(kinds) - 1) / 2)
            _dots(axes, mine, measure, factor, shift, label, _style(number))
        axes.set_xlabel(text)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if _is_wide(groups, measure):
            axes.set_xscale("log")
        tidy(axes)
    drawn[0].set_yticks(range(len(rows)), [verbatim(row) for row in rows])
    if split is not None:
        legend_below(figure, drawn[0])
    return figure


def _split(groups: list[Group]) -> str | None:
    """The numeric option whose values get colors of their own; None where all that differs are words."""
    for name in groups[0].named or groups[0].options:
        values = {g.options[name] for g in groups}
        if 1 < len(values) <= len(COLORS) and all(isinstance(v, (int, float)) for v in values):
            return name
    return None


def _style(number: int) -> dict[str, Any]:
    return {"color": COLORS[number], "marker": MARKERS[number], "markersize": 5, "capsize": 2}


def _dots(
    axes: Axes,
    groups: list[Group | None],
    measure: str,
    factor: float,
    shift: float,
    label: str,
    style: dict[str, Any],
) -> None:
    found = [
        (g.mean(measure), g.deviation(measure) or 0.0, row + shift)
        for row, g in enumerate(groups)
        if g is not None and g.mean(measure) is not None
    ]
    if not found:
        return
    mean, deviation, row = np.array(found, dtype=float).T
    axes.errorbar(
        factor * mean, row, xerr=factor * deviation, linestyle="none", label=label, **style
    )


def _is_wide(groups: list[Group], measure: str) -> bool:
    means = [mean for g in groups if (mean := g.mean(measure)) is not None]
    return min(means) > 0 and max(means) > WIDE * min(means)
