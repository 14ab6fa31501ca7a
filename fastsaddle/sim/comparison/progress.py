"""How far a comparison is: steps of all its runs on a terminal, a line for each finished run elsewhere."""

import os
import time
from pathlib import Path
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

from fastsaddle.sim import json_files
from fastsaddle.sim.comparison.grid import Cell, varied
from fastsaddle.sim.comparison.pool import DIVERGED
from fastsaddle.sim.comparison.results import describe
from fastsaddle.sim.methods import takes
from fastsaddle.sim.run.labels import Labels
from fastsaddle.sim.run.progress import percent
from fastsaddle.sim.run.records import Diverged
from fastsaddle.sim.run.run_dir import CONFIG, read_row, read_steps

SECONDS_BETWEEN_UPDATES = 1.0
# where there is no terminal: the longest silence
SECONDS_BETWEEN_LINES = 30.0
# a line of metrics.jsonl is shorter
TAIL = 2048


class ComparisonProgress:
    """Follows the runs of a grid by the last line of each metrics.jsonl."""

    def __init__(
        self, console: Console, what: str, cells: list[Cell], paths: dict[str, Path]
    ) -> None:
        self._paths = list(paths.values())
        labels = Labels(c.config for c in cells)
        self._names = {paths[c.name]: _describe(c, varied(cells), labels) for c in cells}
        self._done: set[Path] = set()
        self._begin = time.monotonic()
        self._updated = 0.0 if console.is_terminal else self._begin
        self._what, self._shares = what, sum(map(self._share, self._paths))
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn(what),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[runs]} runs"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=len(cells), runs=f"0/{len(cells)}")

    def __enter__(self) -> "ComparisonProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show_finished(self, path: Path, done: int) -> None:
        """Say how a run ended; `done` of all are now."""
        diverged = json_files.read_as(path / DIVERGED, Diverged)
        if diverged is not None:
            end = f"diverged at step {diverged['step']}"
        else:
            end = f"accuracy {percent(_last_row(path)['consensus_accuracy'])}"
        line = f"{done}/{len(self._paths)} {self._names[path]}: {end}"
        self._bar.console.print(line, highlight=False, markup=False)
        if self._bar.disable:
            self._updated = time.monotonic()
        self._bar.update(self._task, runs=f"{done}/{len(self._paths)}")

    def update(self) -> None:
        """Redraw the bar, at most once a second, or say a line now and then; a run under way counts by its share."""
        now = time.monotonic()
        pause = SECONDS_BETWEEN_LINES if self._bar.disable else SECONDS_BETWEEN_UPDATES
        if now - self._updated < pause:
            return
        self._updated = now
        shares = sum(map(self._share, self._paths))
        if self._bar.disable:
            self._say(shares, now - self._begin)
        else:
            self._bar.update(self._task, completed=shares)

    def _say(self, shares: float, seconds: float) -> None:
        """How far all runs are, and how long the rest takes at the pace of this sitting."""
        line = f"{shares / len(self._paths):.0%} of the steps of {len(self._paths)} {self._what}"
        line += f", {len(self._done)} done, after {_minutes(seconds)}"
        if shares > self._shares:
            left = (len(self._paths) - shares) * seconds / (shares - self._shares)
            line += f", about {_minutes(left)} left"
        print(line, flush=True)

    def _share(self, path: Path) -> float:
        if path not in self._done:
            row = _last_row(path)
            if row and not (path / DIVERGED).exists():
                steps = read_steps(path / CONFIG)
                if row["step"] < steps:
                    return row["step"] / steps
            elif not row:
                return 0.0
            self._done.add(path)
        return 1.0


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _describe(cell: Cell, names: list[str], labels: Labels) -> str:
    c = cell.config
    options = {n: labels.of(n, getattr(c, n)) for n in names if takes(c.algorithm, n, c.gradient)}
    return describe(options) or cell.name


def _last_row(path: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics; empty where there is none yet."""
    metrics = path / "metrics.jsonl"
    try:
        with metrics.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - TAIL))
            whole = stream.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return {}
    return read_row(metrics, whole.rpartition(b"\n")[2], "last line") if whole else {}
