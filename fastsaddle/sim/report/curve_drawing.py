"""How figures of curves are drawn: panels on equal scales, bands of deviation, crosses where runs diverged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from fastsaddle.sim.report import curves, hover
from fastsaddle.sim.report.curves import Curve
from fastsaddle.sim.report.drawing import (
    HEIGHT,
    WIDTH,
    Panel,
    Picture,
    inked,
    key,
    line_style,
    tidy,
    to_svg,
)
from fastsaddle.sim.report.groups import ALL_RUNS, RunGroup
from fastsaddle.sim.run.plots import share_limits
from fastsaddle.sim.run.scales import lowest_shown

MOST_PANELS = 12
# larger ratios of the largest to the smallest value are drawn on a logarithmic scale
LINEAR_UP_TO = 8.0
SENT_LINEAR_UP_TO = 8.0
# a ratio below which a logarithmic axis has numbers between the powers of ten
FEW_DECADES = 300.0
STEPS = "step"


@dataclass(frozen=True)
class Drawn:
    """What a figure of curves shows and says; `caption` goes before the sentences that all of them share."""

    id: str
    title: str
    measure: str
    label: str
    caption: str
    x_label: str = STEPS
    x_unit: str = STEPS
    x: Callable[[RunGroup, str], Curve] = curves.over_steps
    is_share: bool = False


def draw(figure: Drawn, groups: list[RunGroup]) -> Picture:
    """The figure with a panel for each of the groups' panels, at most twelve."""
    all_curves = [figure.x(group, figure.measure) for group in groups]
    labels = list(dict.fromkeys(curve.label for curve in all_curves))
    titles = list(dict.fromkeys(curve.panel for curve in all_curves))
    x_scale, y_scale = _x_scale(figure, all_curves), _y_scale(figure, all_curves)
    panels: list[Panel] = []
    for title in titles[:MOST_PANELS]:
        with inked():
            drawing = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
            axes = drawing.subplots()
            for curve in all_curves:
                if curve.panel == title:
                    style = line_style(labels.index(curve.label))
                    _draw_curve(axes, curve, *style, y_scale)
            if figure.is_share:
                axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
            x_scale.apply(axes.set_xscale, axes.set_xlim, axes.xaxis)
            if figure.is_share:
                axes.set_ylim(*y_scale.limits)
            else:
                y_scale.apply(axes.set_yscale, axes.set_ylim, axes.yaxis)
            axes.set_xlabel(figure.x_label)
            axes.set_ylabel(figure.label)
            tidy(axes)
            drawing.draw_without_rendering()
            told = [_told(curve, figure.is_share) for curve in all_curves if curve.panel == title]
            over = hover.over_axes(axes, told, figure.x_unit)
            name, what = f"{figure.id}-{len(panels)}", f"{figure.title} {title}".strip()
            panels.append(Panel(title, to_svg(drawing, name, what, over)))
    keys = tuple(key(number, label) for number, label in enumerate(labels))
    caption = f"{figure.caption} {_shared(groups, titles)}"
    if figure.is_share and _finite([c.mean for c in all_curves]).min(initial=1) < y_scale.limits[0]:
        caption += (
            " The axis spans what lines come to in their second half; the rise before is cut off."
        )
        if below := [c for c in all_curves if _end(c) < y_scale.limits[0]]:
            ends = ", ".join(
                f"{' '.join((c.label, c.panel)).strip()} ({_end(c):.1%})" for c in below
            )
            caption += f" Below it throughout: {ends}."
    return Picture(figure.id, figure.title, caption, tuple(panels), keys)


def _draw_curve(axes: Axes, curve: Curve, color: str, style: str, scale: "_Scale") -> None:
    limits = scale.limits
    marker = "o" if len(curve.x) == 1 else ""
    axes.plot(curve.x, curve.mean, style, color=color, linewidth=1.7, marker=marker)
    # a band below zero would end a logarithmic one
    low, high = np.maximum(curve.mean - curve.deviation, limits[0]), curve.mean + curve.deviation
    if curve.runs > 1:
        where = curve.mean > 0 if scale.is_log else None
        axes.fill_between(curve.x, low, high, where, color=color, alpha=0.18, linewidth=0)
    for x, y in curve.ends:
        axes.plot(x, y, style, color=color, linewidth=0.8)
        if (known := np.flatnonzero(np.isfinite(y))).size:
            x_end, y_end = x[known[-1]], np.clip(y[known[-1]], *limits)
            axes.plot(x_end, y_end, "x", color=color, markersize=8, markeredgewidth=2)


class _Scale:
    """Limits and scale that all panels of a figure share, so that they can be compared."""

    def __init__(
        self, values: list[np.ndarray], is_log: bool, limits: tuple[float, float] | None = None
    ) -> None:
        finite = _finite(values)
        shown = finite[finite > 0] if is_log else finite
        self.is_log = is_log
        found = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
        self.limits = found if limits is None else limits

    def apply(
        self, set_scale: Callable[..., object], set_limits: Callable[..., object], axis: Axis
    ) -> None:
        """Set them on an axis by its own functions."""
        low, high = self.limits
        if self.is_log:
            set_scale("log", nonpositive="mask")
            margin = (high / low) ** 0.04
            set_limits(low / margin, high * margin)
            # powers of ten alone would leave a short axis without numbers
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < FEW_DECADES * low else (1,)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
            return
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        # what cannot be negative does not seem so
        set_limits(max(low - margin, 0.0) if low >= 0 else low - margin, high + margin)


def _x_scale(figure: Drawn, all_curves: list[Curve]) -> _Scale:
    """Logarithmic where some groups send far less than others."""
    values = [c.x for c in all_curves] + [x for c in all_curves for x, _ in c.ends]
    last = np.array([x.max() for x in map(_finite, ([v] for v in values)) if x.size])
    is_log = figure.x is curves.over_bytes and last.max() > SENT_LINEAR_UP_TO * last.min() > 0
    return _Scale(values, bool(is_log))


def _y_scale(figure: Drawn, all_curves: list[Curve]) -> _Scale:
    """Runs that diverged set no limits, but where there are no others, or their values are bounded."""
    ends = [y for c in all_curves for _, y in c.ends]
    if figure.is_share:
        lowest = lowest_shown(map(_end, all_curves))
        near = [c for c in all_curves if _end(c) >= lowest]
        bands = [edge for c in near for edge in (c.mean - c.deviation, c.mean + c.deviation)]
        return _Scale([], False, share_limits(bands or ends))
    lines = _finite([c.mean for c in all_curves])
    if not lines.size:
        lines = np.concatenate([lines, _finite(ends)])
    positive = lines[lines > 0]
    is_log = (
        positive.size >= 0.8 * lines.size > 0 and positive.max() > LINEAR_UP_TO * positive.min()
    )
    if is_log:
        return _Scale([positive], True)
    bands = [np.concatenate([c.mean - c.deviation, c.mean + c.deviation]) for c in all_curves]
    return _Scale([lines, *bands], False)


def _end(curve: Curve) -> float:
    """The last value that is a number; NaN where none is."""
    known = _finite([curve.mean])
    return float(known[-1]) if known.size else np.nan


def _told(curve: Curve, is_share: bool) -> hover.Told:
    """A curve's values in words."""
    factor, digits, unit = (100, ".2f", " %") if is_share else (1, ".4g", "")
    texts: list[str | None] = []
    for mean, deviation in zip(curve.mean, curve.deviation, strict=True):
        text = f"{mean * factor:{digits}}"
        if curve.runs > 1:
            text += f" ± {deviation * factor:{digits}}"
        texts.append(text + unit if np.isfinite(mean) else None)
    return hover.Told(curve.label if curve.label != ALL_RUNS else "", curve.x, texts)


def _finite(values: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate([np.ravel(v) for v in values]) if values else np.empty(0)
    return joined[np.isfinite(joined)]


def _shared(groups: list[RunGroup], titles: list[str]) -> str:
    """How the lines of these groups are to be read."""
    sizes = {len(g.alive) for g in groups if g.alive}
    sentences = []
    if sizes and max(sizes) > 1:
        seeds = str(max(sizes)) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
        sentences.append(f"Lines are means over {seeds} runs, bands one standard deviation.")
    if any(curves.are_interpolated(g) for g in groups):
        sentences.append("Runs evaluated at different steps are interpolated between them.")
    if any(run.diverged for g in groups for run in g.runs):
        sentences.append("Thin lines that end in a cross are runs that diverged.")
    if len(titles) > MOST_PANELS:
        left_out = "; ".join(titles[MOST_PANELS:])
        sentences.append(f"Not shown: {left_out}.")
    return " ".join(sentences)
