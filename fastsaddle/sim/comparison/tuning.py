"""Choose hyperparameters from a grid's tuning runs, which never see the test set."""

import statistics
from dataclasses import dataclass
from typing import Any

from fastsaddle.sim.comparison.grid import SEEDS, Cell, Grid, Values, varied
from fastsaddle.sim.comparison.results import Outcome
from fastsaddle.sim.config import spelled
from fastsaddle.sim.methods import takes
from fastsaddle.sim.run.labels import Labels


@dataclass(frozen=True)
class Chosen:
    """What tuning took where `when` holds, and which of it lies at the edge of several candidates."""

    when: dict[str, Any]
    values: dict[str, Any]
    accuracy: float | None
    edges: tuple[str, ...]

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Chosen":
        """From an entry of compare.json, which may spell names as earlier versions did."""
        when, values = (
            {n: spelled(n, v) for n, v in content[part].items()} for part in ("when", "values")
        )
        return cls(when, values, content["accuracy"], tuple(content["edges"]))

    def as_override(self) -> tuple[Values, Values]:
        """In the form in which a grid takes it."""
        return ({n: [v] for n, v in self.when.items()}, {n: [v] for n, v in self.values.items()})

    def note(self, labels: Labels) -> str:
        """One line for people."""
        where = ", ".join(f"{n} {labels.of(n, v)}" for n, v in self.when.items()) or "all runs"
        named = {n: labels.of(n, v) for n, v in self.values.items() if v is not None}
        what = ", ".join(f"{n} {v}" for n, v in named.items()) or "nothing to choose"
        seen = (
            "all diverged" if self.accuracy is None else f"{self.accuracy:.2%} on validation data"
        )
        edge = f"; {' and '.join(self.edges)} at the edge of the candidates" if self.edges else ""
        return f"{where}: {what} ({seen}{edge})"


def choose(grid: Grid, outcomes: list[Outcome]) -> list[Chosen]:
    """The candidates with the best mean consensus accuracy at the last step, for every combination of the rest.

    Options that the tuning runs have different from the real ones (`tuning`) tell nothing apart.
    """
    cells = [outcome.cell for outcome in outcomes]
    apart = [n for n in varied(cells) if n not in (*grid.tuned, *grid.tuning, *SEEDS)]
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(str(_options(outcome.cell, apart)), []).append(outcome)
    return [_best(grid, mine, _options(mine[0].cell, apart)) for mine in groups.values()]


def _best(grid: Grid, outcomes: list[Outcome], when: dict[str, Any]) -> Chosen:
    candidates: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        candidates.setdefault(str(_options(outcome.cell, grid.tuned)), []).append(outcome)
    scores = {key: _score(mine) for key, mine in candidates.items()}
    # the first of equals, so that the order of the file decides
    best = max(scores, key=lambda key: -1.0 if (score := scores[key]) is None else score)
    values = _options(candidates[best][0].cell, grid.tuned)
    seen = {n: {getattr(o.cell.config, n) for o in outcomes} for n in grid.tuned}
    config = candidates[best][0].cell.config
    values = {n: v for n, v in values.items() if takes(config.algorithm, n, config.gradient)}
    edges = tuple(
        n
        for n, value in values.items()
        if isinstance(value, (int, float))
        and len(seen[n]) > 1
        and value in (min(seen[n]), max(seen[n]))
    )
    return Chosen(when, values, scores[best], edges)


def _score(outcomes: list[Outcome]) -> float | None:
    """Mean accuracy over seeds; None where one of them diverged."""
    if any(outcome.measures is None for outcome in outcomes):
        return None
    return statistics.fmean(o.measures["accuracy"] for o in outcomes if o.measures is not None)


def _options(cell: Cell, names: Any) -> dict[str, Any]:
    return {name: getattr(cell.config, name) for name in names}
