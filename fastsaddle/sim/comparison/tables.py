"""The table of a comparison: for the terminal, and as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tabulate import tabulate

from fastsaddle.sim.comparison import latex
from fastsaddle.sim.comparison.results import MEASURES, Group
from fastsaddle.sim.run.whole_files import write_synced

# measure -> a title of two lines
ON_A_TERMINAL = {
    "accuracy": "consensus\naccuracy %",
    "mean_accuracy": "agents'\nmean %",
    "worst_accuracy": "worst\nagent %",
    "bytes": "MB sent\nan agent",
    "step_milliseconds": "ms a\nstep",
    "sam_sharpness": "SAM\nsharpness",
}
# left out first where a terminal is narrow
DISPENSABLE = ("step_milliseconds", "worst_accuracy", "mean_accuracy", "sam_sharpness")


def header(groups: list[Group]) -> tuple[list[str], list[tuple[str, str, float, int]]]:
    """The varied options and the measures that at least one group has."""
    names = list(groups[0].options) if groups else []
    return names, [m for m in MEASURES if any(g.values(m[0]) for g in groups)]


def lines(groups: list[Group]) -> list[list[str]]:
    """Titles, then a line a group: its options, its number of runs, mean ± deviation of every measure."""
    names, measures = header(groups)
    titles = [*(name.replace("_", " ") for name in names), "runs", *(m[1] for m in measures)]
    return [titles, *([*_options(g, names), _runs(g), *_cells(g, measures)] for g in groups)]


def show(groups: list[Group], title: str, console: Console) -> Table:
    """The table for a terminal, without the measures and options that do not fit; the files have all."""
    names, measures = header(groups)
    shown = [m for m in measures if m[0] in ON_A_TERMINAL]
    table = _table(groups, title, names, shown)
    # measured as if there were space: a table never asks for more than it is given
    unbounded = console.options.update(max_width=10_000)
    needed = groups[0].named or names if groups else names
    for dispensable in (*DISPENSABLE, *(name for name in names if name not in needed)):
        if console.measure(table, options=unbounded).maximum > console.width:
            names = [name for name in names if name != dispensable]
            shown = [m for m in shown if m[0] != dispensable]
            table = _table(groups, title, names, shown)
    return table


def _table(
    groups: list[Group], title: str, names: list[str], shown: list[tuple[str, str, float, int]]
) -> Table:
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name.replace("_", " "), no_wrap=True)
    for name, *_ in shown:
        table.add_column(ON_A_TERMINAL[name], justify="right", no_wrap=True)
    for g in groups:
        cells = (text.split(" ±")[0] for text in _cells(g, shown[1:]))
        accuracy = "".join(_cells(g, shown[:1])) + " *" * (g.diverged > 0)
        table.add_row(*map(escape, _options(g, names)), accuracy, *cells)
    table.caption = "\n".join(
        f"* {escape(g.label)}: {g.diverged} of {len(g.outcomes)} runs diverged"
        for g in groups
        if g.diverged
    )
    return table


def write(
    directory: Path, groups: list[Group], notes: list[str], columns: Sequence[str] = latex.USUAL
) -> None:
    """Write table.md and table.csv with all measures, table.tex with those of `columns`.

    table.csv has plain numbers, means and deviations apart.
    """
    titles, *rest = lines(groups)
    text = tabulate(rest, titles, tablefmt="github", disable_numparse=True) + "\n"
    if notes:
        text += "\n" + "".join(f"{note}\n" for note in notes)
    write_synced(directory / "table.md", text)
    write_synced(directory / "table.csv", _csv(groups))
    write_synced(directory / "table.tex", latex.table(groups, columns))


def rows(groups: list[Group]) -> list[dict[str, Any]]:
    """Plain numbers by name, a row a group: options, runs, then the mean and the deviation of every measure."""
    names, measures = header(groups)
    return [
        {
            **{name: g.own.get(name, "") for name in names},
            "runs": len(g.outcomes),
            "diverged": g.diverged,
            **{
                key: value
                for name, *_ in measures
                for key, value in ((name, g.mean(name)), (f"{name}_deviation", g.deviation(name)))
            },
        }
        for g in groups
    ]


def options_of(found: list[dict[str, Any]]) -> list[str]:
    """Which names of `rows` are options: all before the number of runs."""
    names = list(found[0]) if found else []
    return names[: names.index("runs")] if names else []


def _csv(groups: list[Group]) -> str:
    stream = io.StringIO()
    found = rows(groups)
    writer = csv.DictWriter(stream, list(found[0]) if found else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return stream.getvalue()


def _options(group: Group, names: list[str]) -> list[str]:
    values = (group.own.get(name, "") for name in names)
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in values]


def _runs(group: Group) -> str:
    runs = len(group.outcomes)
    return f"{runs}, {group.diverged} diverged" if group.diverged else str(runs)


def _cells(group: Group, measures: list[tuple[str, str, float, int]]) -> list[str]:
    texts = []
    for name, _, factor, digits in measures:
        mean, deviation = group.mean(name), group.deviation(name)
        if mean is None:
            texts.append("diverged" if group.diverged == len(group.outcomes) else "-")
            continue
        text = f"{mean * factor:,.{digits}f}"
        # what is counted is the same for every seed
        if deviation is not None and not (deviation == 0 and digits < 2):
            text += f" ± {deviation * factor:.{digits}f}"
        texts.append(text)
    return texts
