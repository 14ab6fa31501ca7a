"""The loss surfaces of two methods side by side, on one scale of colors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from fastsaddle.sim.report.drawing import Panel, Picture, inked, to_svg
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.report.surfaces import EXTENT, Surface, surface
from fastsaddle.sim.run import checkpoint
from fastsaddle.sim.run.paths import without_folders

# sharpness-aware method -> the same without
COUNTERPARTS = {"qsaddle": "qgm", "dsaddle": "dsgd", "nsaddle": "ngm"}
LEVELS = 17
# a larger ratio of losses is drawn on a logarithmic scale
LINEAR_UP_TO = 20.0
TITLE = "Loss around the consensus models"


def draw(
    groups: list[RunGroup],
    samples: int,
    points: int,
    data_dir: Path | None,
    say: Callable[[str], None] = lambda line: None,
) -> Picture:
    """Surfaces of a sharpness-aware group and its plain counterpart, else of the first two groups; or why not."""
    found: list[tuple[str, Surface]] = []
    reasons = []
    pair = _pair(groups)
    for number, g in enumerate(pair, 1):
        try:
            run = _first(g)
            say(
                f"loss surface {number} of {len(pair)}, {g.label}: {points}x{points} points, {samples:,} samples each"
            )
            found.append((g.label, surface(run, samples, points, data_dir)))
        except (ValueError, OSError, ImportError) as error:
            reasons.append(f"None for {g.label}: {without_folders(str(error))}.")
    if not found:
        return Picture("loss-surface", TITLE, " ".join(["Could not be computed.", *reasons]))
    levels, norm = _levels([s.loss for _, s in found])
    panels = []
    for number, (label, s) in enumerate(found):
        title = f"{label}: loss {_center(s):.3g} at step {s.step:,}"
        svg = to_svg(_map(s.loss, levels, norm), f"loss-surface-{number}", title)
        panels.append(Panel(title, svg))
    caption = (
        f"Mean loss on {samples:,} training samples around the consensus model (cross) of the last "
        "checkpoint, first seed, along two random directions, the same draw for all, normalized "
        "filter by filter (Li et al. 2018, arXiv:1712.09913): 1 is the length of the model's own "
        "filters."
    )
    if len(found) > 1:
        caption += (
            " Equal colors are equal losses: the wider the dark basin, the flatter the minimum."
        )
    return Picture("loss-surface", TITLE, " ".join([caption, *reasons]), tuple(panels))


def _pair(groups: list[RunGroup]) -> list[RunGroup]:
    """A sharpness-aware group and the counterpart with the most equal options, among those that can be drawn."""
    able = [g for g in groups if any(checkpoint.find(run.path) for run in g.alive)]
    able = able or [g for g in groups if g.alive] or groups
    best: tuple[int, list[RunGroup]] = (-1, able[:2])
    for method, plain in COUNTERPARTS.items():
        for aware in (g for g in able if _algorithm(g) == method):
            for other in (g for g in able if _algorithm(g) == plain):
                equal = sum(other.options[n] == value for n, value in aware.options.items())
                if equal > best[0]:
                    best = equal, [aware, other]
    return best[1]


def _algorithm(group: RunGroup) -> str:
    return group.runs[0].config.algorithm


def _first(group: RunGroup) -> Run:
    """The run of the first seed that can be used. Raises ValueError where none can."""
    if not group.alive:
        raise ValueError("all of its runs diverged")
    able = [run for run in group.alive if checkpoint.find(run.path)]
    if not able:
        raise ValueError(f"{group.alive[0].name} has no checkpoint")
    return min(able, key=lambda run: run.config.seed)


def _center(s: Surface) -> float:
    return float(s.loss[len(s.loss) // 2, len(s.loss) // 2])


def _levels(losses: list[np.ndarray]) -> tuple[np.ndarray, Normalize]:
    values = np.concatenate([loss[np.isfinite(loss)] for loss in losses])
    if not values.size:
        values = np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > LINEAR_UP_TO * low:
        return np.geomspace(low, high, LEVELS), LogNorm(low, high)
    high = high if high > low else low + 1
    return np.linspace(low, high, LEVELS), Normalize(low, high)


def _map(loss: np.ndarray, levels: np.ndarray, norm: Normalize) -> Figure:
    places = np.linspace(-EXTENT, EXTENT, len(loss))
    shown = np.ma.masked_invalid(loss.T)
    with inked():
        figure = Figure(figsize=(4.6, 3.7), layout="constrained")
        axes = figure.subplots()
        field = axes.contourf(places, places, shown, levels, norm=norm, cmap="viridis")
        # as areas of SVG they would show seams
        field.set_rasterized(True)
        axes.contour(places, places, shown, levels, colors="white", linewidths=0.4, alpha=0.7)
        axes.plot(0, 0, "+", color="white", markersize=10, markeredgewidth=2)
        axes.set_aspect("equal")
        axes.set_xlabel("along the first direction")
        axes.set_ylabel("along the second")
        bar = figure.colorbar(field, label="loss", ticks=levels[::2])
        bar.ax.set_yticklabels([f"{level:.3g}" for level in levels[::2]])
        bar.ax.minorticks_off()
        return figure
