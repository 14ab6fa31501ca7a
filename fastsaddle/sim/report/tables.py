"""The tables of the page: results, how the runs stand, options and surroundings."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from fastsaddle.sim.comparison import tables as comparison_tables
from fastsaddle.sim.comparison.results import HIGHER_IS_BETTER
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.report.runs import Comparison, Run
from fastsaddle.sim.run.labels import Labels


@dataclass(frozen=True)
class Table:
    """Titles and lines of text; the first `names` columns are words, the others numbers.

    Where the page sorts it `ranks` has the place of each line by each column, from 0.
    """

    titles: list[str]
    lines: list[list[str]]
    names: int
    ranks: list[list[int]] | None = None


def results(groups: list[RunGroup]) -> Table:
    """Mean and deviation of every measure, a line a group."""
    summaries = [g.summary for g in groups]
    titles, *lines = comparison_tables.lines(summaries)
    names, measures = comparison_tables.header(summaries)
    columns: list[list[Any]] = [[s.options[name] for s in summaries] for name in names]
    columns.append([s.diverged - len(s.outcomes) for s in summaries])
    for measure, *_ in measures:
        sign = -1 if measure in HIGHER_IS_BETTER else 1
        columns.append([None if (m := s.mean(measure)) is None else sign * m for s in summaries])
    places = [_places(column) for column in columns]
    return Table(titles, lines, len(names), [list(line) for line in zip(*places, strict=True)])


def _places(values: list[Any]) -> list[int]:
    """The place of each value in ascending order, equal ones in the order in which they come, None last."""
    is_number = all(v is None or isinstance(v, (int, float)) for v in values)
    keys = [(v is None, 0 if v is None else v if is_number else str(v)) for v in values]
    ordered = sorted(range(len(values)), key=lambda i: keys[i])
    return [ordered.index(i) for i in range(len(values))]


def notes(groups: list[RunGroup], runs: list[Run], comparisons: list[Comparison]) -> list[str]:
    """What a reader of the results has to know: how they were chosen, and what is not there."""
    lines = []
    labels = Labels(run.config for run in runs)
    for comparison in comparisons:
        name = comparison.path.resolve().name
        if comparison.missing:
            lines.append(f"{name}: {comparison.missing} of its runs have not begun.")
        if comparison.tuning_runs:
            lines.append(
                f"{name}: {comparison.tuning_runs} further runs, not shown, chose on validation data:"
            )
            lines += [f"{choice.note(labels)}." for choice in comparison.chosen]
    named = {run.path: g.label for g in groups for run in g.runs}
    # label and state -> seeds
    states: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if not run.is_finished:
            label = named.get(run.path) or labels.of("algorithm", run.config.algorithm)
            state = run.state.removesuffix(".")
            states.setdefault((label, state), []).append(str(run.config.seed))
    for (label, state), seeds in states.items():
        lines.append(f"{label}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {state}.")
    if any(len({run.is_finished for run in g.alive}) > 1 for g in groups):
        lines.append(
            "Runs under way count in the table only where none of their group has finished."
        )
    return lines


def runs_table(groups: list[RunGroup]) -> Table:
    """Where each run lies, its seeds and how it ended."""
    lines = [
        [
            g.label,
            str(run.config.seed),
            say(run.config.split_seed),
            run.name,
            "diverged" if run.diverged is not None else run.state,
        ]
        for g in groups
        for run in g.runs
    ]
    return Table(["group", "seed", "split-seed", "directory", "state"], lines, 5)


def surroundings(runs: list[Run]) -> Table:
    """Machines, versions and backends that runs were made with; a line for each that differs."""
    seen = Counter(json.dumps(_surroundings(run)) for run in runs)
    described = [(json.loads(text), count) for text, count in seen.items()]
    titles = list(described[0][0])
    lines = [[*(d[t] for t in titles), str(count)] for d, count in described]
    return Table([*titles, "runs"], lines, len(titles))


def say(value: Any) -> str:
    """An option's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _surroundings(run: Run) -> dict[str, str]:
    record, config = run.record, run.config
    versions = ", ".join(f"{n} {v}" for n, v in record.get("versions", {}).items())
    chosen: dict[str, list[str]] = {}
    for name, backend in record.get("backend", {}).items():
        chosen.setdefault(backend, []).append(name)
    backends = "; ".join(f"{b}: {', '.join(sorted(names))}" for b, names in chosen.items())
    return {
        "machine": record.get("machine", "unknown"),
        "device": config.device,
        "CPU threads": say(config.threads),
        "engine": config.engine,
        "versions": versions or "unknown",
        "backends of the kernels": backends or "unknown",
    }
