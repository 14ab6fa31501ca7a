"""Values that a drawing tells under the pointer: bands over it, each with a title, which browsers show."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# points nearer to each other than this, in points of 1/72 inch, share a band
LEAST_WIDTH = 5.0
POINTS_AN_INCH = 72


@dataclass(frozen=True)
class Told:
    """What one line tells: its label, `x` `[points]` float64, a text for each point (None: nothing known there)."""

    label: str
    x: np.ndarray
    texts: list[str | None]


def over_axes(axes: Axes, lines: list[Told], unit: str) -> Markup:
    """Bands over the axes of a figure that has been laid out, a title each: `unit` and place, then a line a curve.

    Where two points of a line share a band the later one is told.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    width, height = (POINTS_AN_INCH * inches for inches in figure.get_size_inches())
    box = axes.get_position()
    left, right = box.x0 * width, box.x1 * width
    values = np.unique(np.concatenate([line.x[np.isfinite(line.x)] for line in lines] or [[]]))
    if not values.size:
        return Markup()
    # of axes that are logarithmic too
    to_share = (axes.transData + axes.transAxes.inverted()).transform
    shares = np.array([to_share((x, axes.get_ylim()[1]))[0] for x in values])
    places = left + shares * (right - left)
    is_inside = np.isfinite(places) & (places >= left - 1) & (places <= right + 1)
    bands = _together(values[is_inside], places[is_inside])
    centers = [(first + last) / 2 for _, _, first, last in bands]
    edges = [left, *((a + b) / 2 for a, b in pairwise(centers)), right]
    drawn = Markup()
    for (low, high, _, _), (start, end) in zip(bands, pairwise(edges), strict=True):
        if text := _text(lines, low, high, unit):
            drawn += Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">').format(
                start, (1 - box.y1) * height, end - start, box.height * height
            )
            drawn += Markup("<title>{}</title></rect>").format(text)
    return Markup('<g class="hover">{}</g>').format(drawn)


def over_cells(axes: Axes, texts: list[list[str]]) -> Markup:
    """A rectangle with a title over each cell of a map `[rows][columns]` that fills its axes."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    width, height = (POINTS_AN_INCH * inches for inches in figure.get_size_inches())
    box = axes.get_position()
    rows, columns = len(texts), len(texts[0])
    wide, high = box.width * width / columns, box.height * height / rows
    drawn = [
        f'<rect x="{box.x0 * width + column * wide:.1f}" y="{(1 - box.y1) * height + row * high:.1f}" '
        f'width="{wide:.1f}" height="{high:.1f}"><title>{escape(text)}</title></rect>'
        for row, line in enumerate(texts)
        for column, text in enumerate(line)
    ]
    return Markup(f'<g class="hover">{"".join(drawn)}</g>')


def _together(values: np.ndarray, places: np.ndarray) -> list[tuple[float, float, float, float]]:
    """First and last value, first and last place of each band."""
    bands: list[tuple[float, float, float, float]] = []
    for value, place in zip(values, places, strict=True):
        if bands and place - bands[-1][2] < LEAST_WIDTH:
            bands[-1] = (bands[-1][0], value, bands[-1][2], place)
        else:
            bands.append((value, value, place, place))
    return bands


def _text(lines: list[Told], low: float, high: float, unit: str) -> str:
    found = []
    for line in lines:
        inside = np.flatnonzero((line.x >= low) & (line.x <= high))
        known = [i for i in inside if line.texts[i] is not None]
        if known:
            found.append((line, known[-1]))
    if not found:
        return ""
    places = {float(line.x[i]) for line, i in found}
    if len(places) == 1:
        head = f"{unit} {places.pop():,.6g}"
        return "\n".join([head, *(_named(line, i) for line, i in found)])
    return "\n".join(f"{_named(line, i)} at {unit} {line.x[i]:,.6g}" for line, i in found)


def _named(line: Told, point: int) -> str:
    return f"{line.label} {line.texts[point]}".strip()
