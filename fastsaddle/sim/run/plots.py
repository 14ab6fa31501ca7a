"""The figures of a run: accuracy and consensus distance over steps, and each agent's classes."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fastsaddle.sim.data.partitions._base import PartitionStatistics
from fastsaddle.sim.run.whole_files import writing

# Okabe and Ito's colors, told apart by color-blind readers
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GREEN = COLORS[:3]
STYLES = ("-", "--", ":", "-.")
MOST_ANNOTATED = 400
# the least that an axis of shares spans: less would make much of a few samples
LEAST_SPAN = 0.01
# of titles and legends
CHARACTERS_AN_INCH = 10


def draw_curves(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Write the learning curves of a run as a picture."""
    save(curves(rows, title), path)


def curves(rows: list[dict[str, Any]], title: str) -> Figure:
    """Accuracies above, consensus distance and, where messages were compressed, their norms below, over the steps."""
    steps = [row["step"] for row in rows]
    is_compressed = any(row.get("update_norm") for row in rows)
    figure = Figure(figsize=(7, 8 if is_compressed else 6), layout="constrained")
    entitle(figure, title)
    heights = (3, 2, 2)[: 3 if is_compressed else 2]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    accuracy, distance = panels[:2]
    for name, label, color, style in (
        ("consensus_accuracy", "consensus model", BLUE, "-"),
        ("mean_accuracy", "agents' mean", ORANGE, "--"),
        ("worst_accuracy", "worst agent", GREEN, ":"),
    ):
        values = [row[name] for row in rows]
        accuracy.plot(steps, values, style, color=color, label=label, linewidth=1.8)
    accuracy.set_ylabel("test accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    names = ("consensus_accuracy", "mean_accuracy", "worst_accuracy")
    zoom(accuracy, [np.array([row[n] for row in rows], float) for n in names])
    legend_above(accuracy)
    distances = [row["consensus_distance"] for row in rows]
    distance.plot(steps, np.array(distances, dtype=float), color=BLUE, linewidth=1.8)
    distance.set_ylabel("consensus distance\n(RMS over agents)")
    distance.set_ylim(bottom=0)
    if is_compressed:
        _draw_norms(panels[2], steps, rows)
    panels[-1].set_xlabel("step")
    for axes in panels:
        tidy(axes)
    return figure


def _draw_norms(axes: Axes, steps: list[int], rows: list[dict[str, Any]]) -> None:
    """What was to be sent and what compression lost of it, RMS over agents, means since the point before."""
    for name, label, color, style in (
        ("update_norm", "to be sent", BLUE, "-"),
        ("error_norm", "lost by compression", ORANGE, "--"),
    ):
        values = np.array([row[name] for row in rows], dtype=float)
        axes.plot(steps, values, style, color=color, label=label, linewidth=1.8)
    axes.set_yscale("log")
    axes.set_ylabel("norm\n(RMS over agents)")
    legend_above(axes)


def draw_classes(
    path: Path, partition: PartitionStatistics, names: tuple[str, ...], title: str
) -> None:
    """Write the heat map of a split."""
    save(classes(partition.counts, names, title), path)


def classes(counts: np.ndarray, names: tuple[str, ...], title: str) -> Figure:
    """A heat map of training images, `counts` `[agents, classes]`: a row per agent, a column per class."""
    agents = len(counts)
    figure = Figure(figsize=(7, min(12, 2.2 + 0.28 * agents)), layout="constrained")
    axes = figure.subplots()
    # the square root keeps small counts visible
    norm = PowerNorm(0.5, 0, counts.max())
    image = axes.imshow(counts, aspect="auto", cmap="Blues", norm=norm, interpolation="none")
    if counts.size <= MOST_ANNOTATED:
        for (agent, label), count in np.ndenumerate(counts):
            if count:
                color = "white" if norm(count) > 0.6 else "black"
                axes.text(label, agent, str(count), ha="center", va="center", color=color, size=8)
        axes.set_yticks(range(agents))
    axes.set_xticks(
        range(len(names)),
        [verbatim(name) for name in names],
        rotation=0 if len(names[0]) == 1 else 30,
    )
    axes.set_xlabel("class")
    axes.set_ylabel("agent")
    entitle(figure, title)
    figure.colorbar(image, label="training images")
    return figure


def share_limits(lines: list[np.ndarray]) -> tuple[float, float]:
    """Limits of an axis of shares `[points]` that lines go over: what they come to in their second half, a little more.

    All lines rise steeply at first; an axis that showed this would draw ends that differ by a few tenths of a percent
    as one line. What lies below the limits is cut off.
    """
    settled = [line[len(line) // 2 :] for line in lines if np.isfinite(line).any()]
    values = np.concatenate([*settled, np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = max(0.08 * (high - low), LEAST_SPAN / 2 - (high - low) / 2)
    return max(0.0, low - margin), min(1.0 + 0.02 * (high - low + margin), high + margin)


def zoom(axes: Axes, lines: list[np.ndarray]) -> None:
    """Give an axis of shares the limits of `share_limits`, and say on it where they cut lines off."""
    low, high = share_limits(lines)
    axes.set_ylim(low, high)
    if any(np.any(line < low) for line in lines):
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
        axes.text(0.995, 0.01, f"cut off below {low:.1%}", size="x-small", color="0.35", **place)


def entitle(figure: Figure, title: str) -> None:
    """A title over the whole figure, in as many lines as its width needs."""
    width = int(CHARACTERS_AN_INCH * figure.get_figwidth())
    lines = [piece for line in title.splitlines() for piece in textwrap.wrap(line, width) or [""]]
    figure.suptitle(verbatim("\n".join(lines)), fontsize="medium")


def legend_above(axes: Axes) -> None:
    """A legend between title and drawing, where it covers no line."""
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axes.legend(**place, ncols=3, frameon=False, fontsize="small")


def legend_below(figure: Figure, axes: Axes) -> None:
    """A legend of many lines under the whole figure, which grows by it."""
    handles, texts = axes.get_legend_handles_labels()
    width = CHARACTERS_AN_INCH * figure.get_figwidth()
    columns = int(np.clip(width // (max(map(len, texts), default=1) + 8), 1, len(texts) or 1))
    rows = max(1, -(-len(texts) // columns))
    # no row much shorter than the others
    columns = max(1, -(-len(texts) // rows))
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(
        handles, texts, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
    )


def save(figure: Figure, path: Path) -> None:
    """Write a PNG so that after a crash it is there whole or not at all."""
    with writing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def line_style(number: int) -> tuple[str, str]:
    """Color and style of line `number` of a figure, 28 of them different."""
    return COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)]


def verbatim(text: str) -> str:
    """A name that a figure shows as it is: between dollars matplotlib would read mathematics."""
    return text.replace("$", r"\$")


def tidy(axes: Axes, alpha: float = 0.3) -> None:
    """A light grid and no frame."""
    axes.grid(alpha=alpha)
    axes.spines[["top", "right"]].set_visible(False)
