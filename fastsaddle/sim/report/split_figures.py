"""Class heat maps: which classes' samples each agent has."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from fastsaddle.sim.comparison.results import name_value
from fastsaddle.sim.report import hover
from fastsaddle.sim.report.drawing import WIDTH, Panel, Picture, inked, to_svg
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.run.labels import Labels
from fastsaddle.sim.run.plots import verbatim

MOST_SPLITS = 4
MOST_ANNOTATED = 240
# cells that tell their number under the pointer
MOST_TOLD = 2000
MOST_NAMED = 20
LONGEST = 60
# options that a split depends on, the seed last
NAMES = ("dataset", "agents", "partition", "alpha", "feature_skew", "evaluate_on")
# the map's own ground is light, whatever the page's
DARK = "#101010"


def draw(runs: list[Run]) -> Picture:
    """The splits of the runs, each once and at most four; different options before different seeds."""
    splits = _distinct(runs)
    if not splits:
        return Picture("class-heat-map", "Classes of each agent", "No run has a partition.json.")
    chosen = _most_different(list(splits))
    differing = _differing([key for key in splits])
    panels: list[Panel] = []
    sentences = []
    for key in chosen:
        partition = splits[key].partition or {}
        counts = np.array(partition["counts"])
        title = _title(key, differing)
        name = f"class-heat-map-{len(panels)}"
        figure = _map(counts, partition["classes"])
        over = _cells(figure, counts, partition["classes"])
        panels.append(Panel(title, to_svg(figure, name, title, over)))
        sentences.append(f"{title}: {_describe(counts)}")
    caption = (
        "Training samples of each class (columns) at each agent (rows); colors grow with the square "
        f"root. {'; '.join(sentences)}."
    )
    if left_out := [_title(key, differing) for key in splits if key not in chosen]:
        caption += f" Not shown: {_few(left_out)}."
    return Picture("class-heat-map", "Classes of each agent", caption, tuple(panels))


def _distinct(runs: list[Run]) -> dict[tuple[Any, ...], Run]:
    splits: dict[tuple[Any, ...], Run] = {}
    labels = Labels(run.config for run in runs)
    for run in runs:
        if run.partition is not None:
            config = run.config
            seed = config.seed_of_split
            key = (*(labels.of(name, getattr(config, name)) for name in NAMES), seed)
            splits.setdefault(key, run)
    return splits


def _most_different(keys: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The first seed of every other option, then the other seeds."""
    firsts = {key[:-1]: key for key in reversed(keys)}
    ordered = sorted(keys, key=lambda key: firsts[key[:-1]] != key)
    return [key for key in keys if key in ordered[:MOST_SPLITS]]


def _differing(keys: list[tuple[Any, ...]]) -> list[int]:
    return [i for i in range(len(NAMES)) if len({key[i] for key in keys}) > 1]


def _title(key: tuple[Any, ...], differing: list[int]) -> str:
    values = dict(zip(NAMES, key, strict=False))
    parts = [f"{values['partition']}({values['alpha']:g})"]
    parts += [
        name_value(NAMES[i], key[i]) for i in differing if NAMES[i] not in ("partition", "alpha")
    ]
    return ", ".join([*parts, f"seed {key[-1]}"])


def _describe(counts: np.ndarray) -> str:
    sizes = counts.sum(axis=1)
    share = float((counts.max(axis=1) / np.maximum(sizes, 1)).mean())
    return f"{(counts > 0).sum(axis=1).mean():.1f} classes an agent, {share:.0%} of its samples in the largest"


def _few(texts: Iterable[str], most: int = 6) -> str:
    names = list(texts)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def _cells(figure: Figure, counts: np.ndarray, classes: list[str]) -> Markup | None:
    """What each cell says under the pointer; None where cells have their numbers or are too many."""
    if not MOST_ANNOTATED < counts.size <= MOST_TOLD:
        return None
    figure.draw_without_rendering()
    texts = [
        [f"agent {agent}, class {name}: {count}" for name, count in zip(classes, row, strict=True)]
        for agent, row in enumerate(counts)
    ]
    return hover.over_cells(figure.axes[0], texts)


def _map(counts: np.ndarray, classes: list[str]) -> Figure:
    agents = len(counts)
    with inked():
        figure = Figure(
            figsize=(WIDTH, min(7.5, 1.3 + 0.19 * max(agents, 4))), layout="constrained"
        )
        axes = figure.subplots()
        # the square root keeps small counts visible
        norm = PowerNorm(0.5, 0, max(1, counts.max()))
        image = axes.imshow(counts, aspect="auto", cmap="Blues", norm=norm, interpolation="none")
        if counts.size <= MOST_ANNOTATED:
            for (agent, label), count in np.ndenumerate(counts):
                color = "white" if norm(count) > 0.6 else DARK
                if count:
                    style: dict[str, Any] = {
                        "ha": "center",
                        "va": "center",
                        "color": color,
                        "size": 6.5,
                    }
                    axes.text(label, agent, str(count), **style)
        if agents <= MOST_NAMED:
            axes.set_yticks(range(agents))
        if len(classes) <= MOST_NAMED:
            is_short = all(len(name) < 3 for name in classes)
            turn: dict[str, Any] = (
                {} if is_short else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
            )
            axes.set_xticks(
                range(len(classes)), [verbatim(name[:LONGEST]) for name in classes], **turn
            )
        axes.set_xlabel("class")
        axes.set_ylabel("agent")
        figure.colorbar(image, label="training samples")
        return figure
