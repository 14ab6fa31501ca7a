"""Runs that differ in their seeds only are one group: one curve, one line of a table."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from fastsaddle.sim.comparison.grid import CARRIED_OUT, SEEDS, Cell
from fastsaddle.sim.comparison.results import Group, Outcome, name_value, telling
from fastsaddle.sim.config import DEFAULTS, NOT_STORED
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.run.labels import Labels

# how often a run is looked at changes nothing in it
NOT_COMPARED = (*CARRIED_OUT, *NOT_STORED, *SEEDS, "eval_every")
COMPARED = tuple(name for name in DEFAULTS if name not in NOT_COMPARED)
MOST_IN_ONE_PANEL = 7
# what the only curve is called
ALL_RUNS = "all runs"


@dataclass(frozen=True)
class RunGroup:
    """Runs with equal options. `summary` has their measures; figures draw them as `curve` in the panel `panel`.

    `options` are all that groups are told apart by, whether they differ here or not, own choices by their labels.
    """

    runs: list[Run]
    summary: Group
    curve: str
    panel: str
    options: dict[str, Any]

    @property
    def label(self) -> str:
        """The options that tell this group from the others, in a few words."""
        return self.summary.label

    @property
    def alive(self) -> list[Run]:
        """The runs that did not diverge."""
        return [run for run in self.runs if run.diverged is None]


def options(run: Run, labels: Labels) -> dict[str, Any]:
    """A run's options but for its seeds and for how it is carried out."""
    values = asdict(run.config)
    return {name: labels.of(name, values[name]) for name in COMPARED}


def group(runs: list[Run], tuned: set[str]) -> list[RunGroup]:
    """Groups of the runs that have been evaluated, in the order in which they come.

    `tuned` options are the last to be named where others tell the groups apart.
    """
    found: dict[str, list[Run]] = {}
    labels = Labels(run.config for run in runs)
    for run in runs:
        if run.rows:
            found.setdefault(json.dumps(options(run, labels), default=str), []).append(run)
    members = list(found.values())
    values = [options(mine[0], labels) for mine in members]
    differing = [n for n in COMPARED if any(v[n] != values[0][n] for v in values)]
    names = telling(values, differing, tuned)
    curve_names, panel_names = _divide(names, values)
    groups = []
    for mine, own in zip(members, values, strict=True):
        summary = Group({name: own[name] for name in names}, _outcomes(mine))
        curve, panel = (_name(own, part) for part in (curve_names, panel_names))
        groups.append(RunGroup(mine, summary, curve or ALL_RUNS, panel, own))
    return groups


def _divide(names: list[str], values: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Options that tell the curves of a panel apart, and those that tell the panels apart."""
    if len(values) <= MOST_IN_ONE_PANEL or len(names) < 2:
        return names, []
    counts = {name: len({str(v[name]) for v in values}) for name in names}
    best = "algorithm" if "algorithm" in names else max(names, key=lambda name: counts[name])
    return [best], [name for name in names if name != best]


def _name(values: dict[str, Any], names: list[str]) -> str:
    said = ", ".join(name_value(name, values[name]) for name in names)
    return said.replace(", with ", " with ")


def _outcomes(runs: list[Run]) -> list[Outcome]:
    """What the table averages: runs under way count only where no run of the group has finished."""
    has_finished = any(run.is_finished for run in runs)
    outcomes = []
    for run in runs:
        measures = run.measures if run.is_finished or not has_finished else {}
        outcomes.append(
            Outcome(Cell(run.config), run.rows, None if run.diverged is not None else measures)
        )
    return outcomes
