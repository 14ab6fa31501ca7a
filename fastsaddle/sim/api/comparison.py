"""A comparison that was made, as an object: its table, its picture, its runs."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fastsaddle.sim.api import shown
from fastsaddle.sim.api.run import Run, write_report
from fastsaddle.sim.api.tables import table
from fastsaddle.sim.comparison import plot, tables
from fastsaddle.sim.comparison.results import Group
from fastsaddle.sim.report import groups, runs


class Comparison:
    """What a comparison has written to its directory. It is read anew whenever it is asked for.

        comparison = fs.sim.compare(algorithm=["dsgd", "qgm"], seed=[0, 1], agents=4, steps=4)

    Args:
        directory: of a comparison, `runs/compare-...`.

    Raises:
        ValueError: the directory is none of a comparison, or a file in it is damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        """Where the comparison lies."""
        self._read()

    def _read(self) -> tuple[list[runs.Run], runs.Comparison]:
        if not (self.directory / runs.COMPARISON).exists():
            raise ValueError(f"{self.directory} is no comparison: it has no {runs.COMPARISON}")
        found, (comparison,) = runs.read_all([self.directory])
        return found, comparison

    def _groups(self) -> tuple[list[Group], tuple[str, ...]]:
        found, comparison = self._read()
        tuned = {name for choice in comparison.chosen for name in choice.values}
        return [g.summary for g in groups.group(found, tuned)], tuple(sorted(tuned))

    @property
    def runs(self) -> list[Run]:
        """The runs that have begun, in the comparison's order."""
        return [Run(run.path) for run in self._read()[0]]

    @property
    def is_finished(self) -> bool:
        """Whether all runs have reached their end, which may be that they diverged."""
        found, comparison = self._read()
        ended = [run.is_finished or run.diverged is not None for run in found]
        # there are none while options are tuned
        return bool(ended) and not comparison.missing and all(ended)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each set of options, with the options that differ, then means and deviations over seeds."""
        return tables.rows(self._groups()[0])

    @property
    def table(self) -> Any:
        """`rows` as a pandas DataFrame, or as they are where pandas is not installed."""
        return table(self.rows)

    def plot(self) -> Figure:
        """Accuracy over a swept option, or learning curves with bands of deviation.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            ValueError: no run has been evaluated yet.
        """
        found, tuned = self._groups()
        if not found:
            raise ValueError(f"no run has been evaluated yet in {self.directory}")
        return shown.displayed(plot.picture(found, tuned, self._name))

    @property
    def _name(self) -> str:
        return self.directory.resolve().name

    def report(self, out: str | Path | None = None, surface: bool = True) -> Path:
        """Write the comparison's HTML page, as `fastsaddle report` does.

        Args:
            out: the page; None is report.html in the comparison's directory.
            surface: whether loss surfaces are drawn, which takes a while.

        Returns:
            Where the page is.
        """
        return write_report(self.directory, out, surface)

    def __repr__(self) -> str:
        found, comparison = self._read()
        missing = f", {comparison.missing} not begun" if comparison.missing else ""
        return f"<Comparison {self.directory}: {len(found)} runs{missing}>"

    def _repr_html_(self) -> str:
        found, tuned = self._groups()
        if not found:
            return shown.facts(self._name, [("state", "no run has been evaluated yet")])
        figure = plot.picture(found, tuned, self._name)
        rows = shown.grid(self._name, tables.lines(found))
        return rows + shown.picture(figure, f"accuracies of {self._name}")
