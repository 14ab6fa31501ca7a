"""What notebooks show of runs and comparisons: HTML of its own, and figures as pictures."""

import base64
from collections.abc import Iterable
from functools import partial
from html import escape
from io import BytesIO

from matplotlib.figure import Figure

DPI = 110


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's content."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return stream.getvalue()


def displayed(figure: Figure) -> Figure:
    """The figure, which a notebook shows as a picture whether matplotlib's own backend for it is there or not."""
    # IPython looks for it on the object; a subclass would not be what drawing functions make
    figure._repr_png_ = partial(png, figure)  # type: ignore[attr-defined]
    return figure


def picture(figure: Figure, words: str) -> str:
    """An image element with a figure inside, and the words that stand for it."""
    data = base64.b64encode(png(figure)).decode()
    return f'<img alt="{escape(words)}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A title and a table of two columns."""
    cells = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<div><strong>{escape(title)}</strong><table>{cells}</table></div>"


def grid(title: str, lines: list[list[str]]) -> str:
    """A title and a table, of which the first line are heads."""
    heads, *rest = lines
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rest
    )
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    return f"<div><strong>{escape(title)}</strong><table><tr>{head}</tr>{rows}</table></div>"
