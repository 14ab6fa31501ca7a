"""The page itself: everything about the runs of some directories in one HTML file that needs nothing else."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

import fastsaddle
from fastsaddle.sim.commands.compare import PLOT
from fastsaddle.sim.comparison import plot
from fastsaddle.sim.report import (
    curve_figures,
    fault_figures,
    options,
    ranking,
    split_figures,
    surface_figures,
    tables,
    topology_figures,
    verdict,
    verdict_of_one,
)
from fastsaddle.sim.report.drawing import Picture
from fastsaddle.sim.report.groups import RunGroup, group
from fastsaddle.sim.report.runs import Comparison, Run, read_all
from fastsaddle.sim.run import faults
from fastsaddle.sim.run.labels import of_agents, of_gradient
from fastsaddle.sim.run.messages import NONE
from fastsaddle.sim.run.paths import inside
from fastsaddle.sim.run.whole_files import write_synced

TEMPLATE = "template.html"
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_PICTURE = 32 << 20


def write(
    directories: list[Path],
    out: Path,
    surface: bool = True,
    samples: int = 1000,
    points: int = 21,
    data_dir: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the page about runs and comparisons to `out`, whole or not at all; returns `out`.

    Args:
        directories: of runs and comparisons, which may be under way; none is locked.
        out: the HTML file, replaced where there is one.
        surface: draw the loss around consensus models. That takes points^2 passes over the samples for each of two
            models; the result is kept in their runs' directories.
        samples: training samples that the loss surface averages over.
        points: of each side of the loss surface, odd.
        data_dir: where the data are now, if not where the runs read them.
        say: is told, in a line, what is begun.

    Raises:
        ValueError: no directory, one that is neither a run nor a comparison, a damaged file, nothing evaluated yet,
            samples below 1, points even or below 3, or an `out` that is a directory.
        OSError: a file cannot be read or written.
    """
    if not directories:
        raise ValueError("a report needs at least one directory of a run or a comparison")
    if samples < 1:
        raise ValueError(f"samples must be >= 1, got {samples}")
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points must be odd and >= 3, got {points}")
    if out.is_dir():
        raise ValueError(f"the page needs the name of a file, got the directory {out}")
    runs, comparisons = read_all(directories)
    if not any(run.rows for run in runs):
        names = ", ".join(map(str, directories))
        raise ValueError(f"no run has been evaluated yet in {names}")
    say(f"{len(runs)} run{'s' * (len(runs) > 1)} read, drawing curves, splits and graphs")
    tuned = {name for c in comparisons for choice in c.chosen for name in choice.values}
    groups = group(runs, tuned)
    content = _content(groups, runs, comparisons) | {"title": _title(directories)}
    if surface:
        content["surface"] = surface_figures.draw(groups, samples, points, data_dir, say)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_synced(out, environment.get_template(TEMPLATE).render(content))
    return out


def _content(
    groups: list[RunGroup], runs: list[Run], comparisons: list[Comparison]
) -> dict[str, Any]:
    """What the template fills in."""
    tested_on = {run.config.evaluate_on for run in runs}
    is_one = len(groups) == 1
    return {
        "summary": _summary(groups, runs),
        "version": fastsaddle.__version__,
        "verdict": verdict_of_one.sentences(groups[0]) if is_one else verdict.of_groups(groups),
        "tiles": verdict_of_one.tiles(groups[0]) if is_one else [],
        "ranking": None if is_one else ranking.draw(verdict.tasks(groups)),
        "results": None if is_one else tables.results(groups),
        "notes": tables.notes(groups, runs, comparisons),
        "comparisons": _plots(comparisons, groups),
        "curves": curve_figures.draw_all(
            groups, tested_on.pop() if len(tested_on) == 1 else "evaluation"
        ),
        "data": _data(groups, runs),
        "surface": None,
        "differing": options.differing(groups),
        "common": options.common(groups),
        "runs": tables.runs_table(groups),
        "surroundings": tables.surroundings(runs),
    }


def _data(groups: list[RunGroup], runs: list[Run]) -> list[Picture]:
    """Who has which data, hears whom, and what was down; nothing of agents that are alone."""
    several = [g for g in groups if g.options["agents"] > 1]
    if not several:
        return []
    pictures = [
        split_figures.draw([run for run in runs if run.config.agents > 1]),
        topology_figures.draw(several),
        fault_figures.draw(several),
    ]
    # one without a drawing says what there is to say about graphs that are too large
    return [p for p in pictures if p and (p.panels or p.id == "topology")]


def _title(directories: list[Path]) -> str:
    more = f" and {len(directories) - 3} more" if len(directories) > 3 else ""
    return ", ".join(path.resolve().name for path in directories[:3]) + more


def _summary(groups: list[RunGroup], runs: list[Run]) -> str:
    """How many runs of what, in a sentence."""
    count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
    if len(groups) > 1:
        count += f" in {len(groups)} groups"
    parts = []
    for names, text in (
        (("dataset",), "{dataset}"),
        (("partition", "alpha"), "{partition}({alpha:g})"),
        (("model",), "{model}"),
        (("agents",), of_agents(groups[0].options["agents"])),
        (("topology",), "{topology}"),
        (("faults",), "" if groups[0].options["faults"] == faults.NONE else "faults {faults}"),
        (("algorithm",), "{algorithm}"),
        (("gradient",), of_gradient(groups[0].options["gradient"])),
        (("compressor",), "" if groups[0].options["compressor"] == NONE else "{compressor}"),
        (("steps",), "{steps:,} steps"),
    ):
        values = {tuple(g.options[name] for name in names) for g in groups}
        if text and len(values) == 1:
            parts.append(text.format(**groups[0].options))
    return f"{count}: {', '.join(parts)}."


def _plots(comparisons: list[Comparison], groups: list[RunGroup]) -> list[tuple[str, str]]:
    """The pictures of comparisons as data URIs with their names, but for those whose curves the page draws itself."""
    plots = []
    for comparison in comparisons:
        path = inside(comparison.path, PLOT)
        mine = [g.summary for g in groups if any(comparison.path in r.path.parents for r in g.runs)]
        tuned = tuple(name for choice in comparison.chosen for name in choice.values)
        if not path.exists():
            continue
        uri = "data:image/png;base64," + base64.b64encode(_picture(path)).decode()
        if not plot.is_of_curves(mine, tuned):
            plots.append((comparison.path.resolve().name, uri))
    return plots


def _picture(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        raise ValueError(f"{path} must be a file of at most {LARGEST_PICTURE >> 20} MiB")
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f"{path} is no PNG")
    return content
