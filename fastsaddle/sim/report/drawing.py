"""Figures of matplotlib as SVG inside the page: they take its color of text, so light and dark suit both."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastsaddle.sim.run import plots

# a color that nothing else has, replaced by the page's own for text
INK = "#0b0c0d"
BLACK = "#000000"
WIDTH, HEIGHT = 4.9, 3.1
# of the parts of figures that are pixels: fields of color, and lines in great number
PIXELS_AN_INCH = 160
DASHES = {"-": "", "--": "7 3", ":": "2 2", "-.": "7 2 2 2"}
INK_OF = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"),
    *("axes.titlecolor", "grid.color"),
)
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Key:
    """An entry of a legend: what a line looks like, and what it is."""

    color: str
    dashes: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One drawing of a picture; `title` may be empty."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Picture:
    """A figure of the page: panels with one legend and one caption, found by `id`."""

    id: str
    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    keys: tuple[Key, ...] = ()


@contextmanager
def inked() -> Iterator[None]:
    """What is drawn inside has the page's color and one size of text."""
    values: dict[Any, Any] = dict.fromkeys(INK_OF, INK)
    with rc_context({**values, "font.size": 9.5}):
        yield


def line_style(number: int) -> tuple[str, str]:
    """Color and line style of curve `number` of a figure, 28 of them different."""
    color, style = plots.line_style(number)
    return INK if color == BLACK else color, style


def key(number: int, label: str) -> Key:
    """The legend's entry of curve `number`."""
    color, style = line_style(number)
    return Key(color.replace(INK, "currentColor"), DASHES[style], label)


def tidy(axes: Axes) -> None:
    """A light grid and no frame."""
    plots.tidy(axes, alpha=0.2)


def to_svg(figure: Figure, name: str, description: str, over: Markup | None = None) -> Markup:
    """The figure as an `<svg>` element whose ids begin with `name`; equal figures give equal text.

    `over` is drawn above it, in points of 1/72 inch.
    """
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(
            stream, format="svg", transparent=True, metadata=NO_METADATA, dpi=PIXELS_AN_INCH
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    label = f'<svg role="img" aria-label="{escape(description)}" '
    text = text.replace("<svg ", label, 1)
    return Markup(text if over is None else text.replace("</svg>", f"{over}</svg>"))
