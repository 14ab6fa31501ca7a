"""Maps of what was down when: a row for each link and each agent."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from fastsaddle.graphs import fault_log
from fastsaddle.graphs.fault_log import Fallen
from fastsaddle.sim.report.drawing import WIDTH, Panel, Picture, inked, to_svg
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.run.faults import FILE
from fastsaddle.sim.run.paths import inside

MOST_MAPS = 4
# columns of a map
MOST_PARTS = 100
MOST_NAMED = 20
# as high as all rows together may be, and one
TALLEST, ROW = 4.8, 0.17


def draw(groups: list[RunGroup]) -> Picture | None:
    """What was down in the first run of each group, at most four; None where nothing was in any."""
    found = []
    for group in groups:
        run = group.runs[0]
        path = inside(run.path, FILE)
        if run.step and path.exists():
            # a run under way may have written more rounds than steps it tells of
            rounds = {t: fallen for t, fallen in fault_log.read(path).items() if t < run.step}
            found.append((group, run, rounds))
    if not any(rounds for _, _, rounds in found):
        return None
    panels, sentences = [], []
    for number, (group, run, rounds) in enumerate(found[:MOST_MAPS]):
        title = group.label if len(found) > 1 else ""
        drawing = to_svg(_map(run, rounds), f"faults-{number}", f"faults of {group.label}")
        panels.append(Panel(title, drawing))
        sentences.append(f"{title}: {_describe(run)}" if title else _describe(run))
    caption = (
        "Links that fell, by their two agents, and agents that were down: the darker, the larger the share of the "
        f"rounds that a column stands for. {'; '.join(sentences)}."
    )
    if any(len(group.runs) > 1 for group, _, _ in found):
        caption += " Of each group one run is shown."
    if left_out := [group.label for group, _, _ in found[MOST_MAPS:]]:
        caption += f" Not shown: {'; '.join(left_out)}."
    return Picture("faults", "Faults", caption, tuple(panels))


def _describe(run: Run) -> str:
    """Shares over all rounds, from those of the lines."""
    steps = np.diff([row["step"] for row in run.rows])
    links, agents = (
        float(np.array([row.get(name) or 0 for row in run.rows[1:]]) @ steps) / run.step
        for name in ("links_down", "agents_down")
    )
    return f"{links:.1%} of the links and {agents:.1%} of the agents in {run.step:,} rounds"


def _map(run: Run, rounds: dict[int, Fallen]) -> Figure:
    parts = min(run.step, MOST_PARTS)
    links = sorted({link for fallen in rounds.values() for link in fallen.links})
    places = {link: row for row, link in enumerate(links)}
    fell, down = np.zeros((len(links), parts)), np.zeros((run.config.agents, parts))
    for t, fallen in rounds.items():
        part = t * parts // run.step
        fell[[places[link] for link in fallen.links], part] += 1
        down[list(fallen.agents), part] += 1
    # rounds that each column stands for
    sizes = np.bincount(np.arange(run.step) * parts // run.step, minlength=parts)
    names = [f"{i}-{j}" for i, j in links], [str(i) for i in range(len(down))]
    kinds = zip(("link", "agent"), (fell / sizes, down / sizes), names, strict=True)
    shown = [kind for kind in kinds if kind[1].any()]
    # one row would be too low for its name
    heights = [max(len(rows), 3) for _, rows, _ in shown]
    with inked():
        tall = min(TALLEST, ROW * sum(heights))
        figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(shown) + tall), layout="constrained")
        all_axes = figure.subplots(len(shown), sharex=True, squeeze=False, height_ratios=heights)
        for axes, kind in zip(all_axes[:, 0], shown, strict=True):
            image = _draw(axes, *kind, run.step)
        all_axes[-1, 0].set_xlabel("round")
        figure.align_ylabels(all_axes[:, 0])
        figure.colorbar(image, ax=all_axes, label="share of the rounds")
    return figure


def _draw(axes: Axes, name: str, rows: np.ndarray, labels: list[str], rounds: int) -> AxesImage:
    image = axes.imshow(
        rows,
        aspect="auto",
        cmap="Reds",
        vmin=0,
        vmax=1,
        interpolation="none",
        extent=(0, rounds, len(rows) - 0.5, -0.5),
    )
    axes.set_ylabel(name)
    if len(labels) <= MOST_NAMED:
        axes.set_yticks(range(len(labels)), labels, size=7)
    return image
