"""A picture of percents of the copy bandwidth: bars for one size, marks for others and for plain PyTorch."""

from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.reporting.machines import machine
from benchmarks.reporting.rows import Row, label, timed

OURS = ("native", "triton", "fastsaddle")
# title of a part of the picture -> what belongs to it
PARTS = {
    "steps": lambda row: "method" in row["extra_info"],
    "ops": lambda row: "passes" in row["extra_info"] and "method" not in row["extra_info"],
    "compressors": lambda row: "passes" not in row["extra_info"],
}
COLORS = {"steps": "#009E73", "ops": "#0072B2", "compressors": "#E69F00"}
MARKS = ("o", "D", "s", "^", "v", "P", "X", "*")


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture of one report: .svg or .png.

    Raises:
        ValueError: nothing of fastsaddle's was timed beside a copy.
    """
    rows = [row for row in timed(report) if label(row) != "copy"]
    ours = [row for row in rows if row["extra_info"]["implementation"] in OURS]
    rest = [row for row in rows if row["extra_info"]["implementation"] not in OURS]
    if not ours:
        raise ValueError("a picture needs percents of the copy bandwidth, got a report without")
    (common, _), *others = Counter(map(_size, ours)).most_common()
    places = _places(ours, common)
    with mpl.rc_context({"svg.hashsalt": "fastsaddle", "font.size": 8}):
        figure = Figure(figsize=(8, 0.2 * max(places.values()) + 1.5), layout="constrained")
        axes = figure.subplots()
        _bars(axes, ours, places, common)
        for mark, (size, _) in zip(MARKS, others, strict=False):
            some = [row for row in ours if _size(row) == size]
            look = {"facecolor": "white", "edgecolor": "black", "label": _text(size)}
            _marks(axes, some, places, marker=mark, **look)
        name = "PyTorch: reference, eager, _foreach, compiled"
        _marks(axes, rest, places, marker="|", color="black", label=name)
        axes.axvline(100, color="black", linewidth=0.8, linestyle="--")
        axes.set_yticks(list(places.values()), list(places))
        axes.set_ylim(max(places.values()) + 0.7, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(left=0)
        axes.set_xlabel(
            "percent of the bandwidth of copy_ in the same run (bytes that must move / time)"
        )
        axes.set_title(machine(report).split(";")[0], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _places(rows: list[Row], size: tuple[int, int]) -> dict[str, float]:
    """Where each thing stands: part by part, the best at `size` on top, a gap between parts."""
    places: dict[str, float] = {}
    for belongs in PARTS.values():
        best: dict[str, tuple[bool, float]] = {}
        for row in filter(belongs, rows):
            key = _size(row) == size, row["extra_info"]["percent_of_copy"]
            best[label(row)] = max(key, best.get(label(row), key))
        start = max(places.values()) + 1.8 if places else 0.0
        ordered = sorted(best, key=lambda what: best[what], reverse=True)
        places.update({what: start + n for n, what in enumerate(ordered)})
    return places


def _bars(axes: Any, rows: list[Row], places: dict[str, float], size: tuple[int, int]) -> None:
    for part, belongs in PARTS.items():
        some = [row for row in rows if belongs(row) and _size(row) == size]
        values = [row["extra_info"]["percent_of_copy"] for row in some]
        heights = [places[label(row)] for row in some]
        axes.barh(heights, values, color=COLORS[part], label=f"{part}, {_text(size)}")
        # beside the axes, where no mark hides them
        beside = axes.get_yaxis_transform()
        for height, value in zip(heights, values, strict=True):
            axes.text(1.03, height, f"{value:.0f}", transform=beside, ha="right", va="center")


def _marks(axes: Any, rows: list[Row], places: dict[str, float], **look: Any) -> None:
    """Of several at one place all are shown."""
    some = [row for row in rows if label(row) in places]
    values = [row["extra_info"]["percent_of_copy"] for row in some]
    heights = [places[label(row)] for row in some]
    if some:
        axes.scatter(values, heights, s=22, linewidth=0.9, zorder=3, **look)


def _size(row: Row) -> tuple[int, int]:
    return row["extra_info"]["agents"], row["extra_info"]["dim"]


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]:,}"
