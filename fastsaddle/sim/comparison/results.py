"""What the runs of a comparison came to: means and deviations over seeds."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastsaddle.sim import json_files
from fastsaddle.sim.comparison.final_sharpness import SHARPNESS
from fastsaddle.sim.comparison.grid import SEEDS, Cell
from fastsaddle.sim.comparison.pool import DIVERGED
from fastsaddle.sim.config import DEFAULTS
from fastsaddle.sim.methods import takes
from fastsaddle.sim.run.labels import Labels, of_gradient
from fastsaddle.sim.run.messages import NONE
from fastsaddle.sim.run.records import Sharpness
from fastsaddle.sim.run.run_dir import CONFIG, read_rows, read_steps

# what a table shows of a run: name, title, factor, digits after the point
MEASURES = (
    ("accuracy", "consensus accuracy %", 100, 2),
    ("best", "best %", 100, 2),
    ("mean_accuracy", "agents' mean %", 100, 2),
    ("worst_accuracy", "worst agent %", 100, 2),
    ("bytes", "MB sent an agent", 1e-6, 1),
    ("compression_error", "compression error %", 100, 1),
    ("gradient_evaluations", "gradients an agent", 1, 0),
    ("step_milliseconds", "ms a step", 1, 2),
    ("seconds", "seconds", 1, 1),
    ("sam_sharpness", "SAM sharpness", 1, 4),
    ("top_eigenvalue", "top eigenvalue", 1, 2),
    ("hessian_trace", "Hessian trace", 1, 1),
    ("mean_valley", "mean valley", 1, 3),
)
# name -> title, factor, digits
BY_NAME = {name: (title, factor, digits) for name, title, factor, digits in MEASURES}
# of all others less is better
HIGHER_IS_BETTER = ("accuracy", "best", "mean_accuracy", "worst_accuracy")


def printed(measure: str, value: float) -> str:
    """A value of a measure in the unit and with the digits that tables show."""
    _, factor, digits = BY_NAME[measure]
    return f"{value * factor:,.{digits}f}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its measures by name, or None where it diverged; and its lines of metrics.jsonl."""

    cell: Cell
    rows: list[dict[str, Any]]
    measures: dict[str, float] | None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only.

    `options` are the varied ones besides, own choices by their labels; `named` those that the group's label tells.
    """

    options: dict[str, Any]
    outcomes: list[Outcome]
    named: tuple[str, ...] | None = None

    @property
    def diverged(self) -> int:
        """How many of the runs came to a gradient that was not finite."""
        return sum(outcome.measures is None for outcome in self.outcomes)

    def values(self, measure: str) -> list[float]:
        """A measure of all runs that did not diverge and have it."""
        found = (o.measures.get(measure) for o in self.outcomes if o.measures is not None)
        return [value for value in found if value is not None]

    def mean(self, measure: str) -> float | None:
        """None where no run has the measure."""
        values = self.values(measure)
        return statistics.fmean(values) if values else None

    def deviation(self, measure: str) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two runs."""
        values = self.values(measure)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def label(self) -> str:
        """The varied options, as far as they tell groups apart, in a few words."""
        named = self.options if self.named is None else self.named
        return describe({n: v for n, v in self.own.items() if n in named}) or "run"

    @property
    def own(self) -> dict[str, Any]:
        """The varied options without those that this algorithm does not take, or has a default of its own for."""
        config = self.outcomes[0].cell.config
        algorithm, gradient = config.algorithm, config.gradient
        return {
            n: v for n, v in self.options.items() if takes(algorithm, n, gradient) and v is not None
        }


def describe(options: dict[str, Any]) -> str:
    """Options in a few words; of compressors and of ways to a gradient only those that are out of the ordinary."""
    ordinary = (("compressor", NONE), *((n, DEFAULTS[n]) for n in ("gradient", "sam", "faults")))
    said = [name_value(n, v) for n, v in options.items() if (n, v) not in ordinary]
    return ", ".join(said).replace(", with ", " with ")


def name_value(name: str, value: Any) -> str:
    """An option in a legend: algorithms and networks speak for themselves."""
    if name == "gradient":
        return f"with {of_gradient(value) or 'its own gradients'}"
    if name == "faults":
        return "no faults" if value == DEFAULTS[name] else f"faults {value}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if isinstance(value, str) else f"{name.replace('_', ' ')} {text}"


def read(cell: Cell, directory: Path) -> Outcome | None:
    """A run's outcome from its directory; None where it has none yet."""
    path = directory / "metrics.jsonl"
    rows = read_rows(path)
    if (directory / DIVERGED).exists():
        return Outcome(cell, rows, None)
    config = directory / CONFIG
    if not config.exists() or not rows or rows[-1]["step"] != read_steps(config):
        return None
    found = json_files.read_as(directory / SHARPNESS, Sharpness) or {}
    return Outcome(cell, rows, measures(rows, cell.config.agents, found))


def measures(
    rows: list[dict[str, Any]], agents: int, sharpness: dict[str, Any]
) -> dict[str, float]:
    """What a table shows of a run, from its lines of metrics.jsonl and sharpness.json; what it lacks is left out."""
    last = rows[-1]
    accuracies = [row.get("consensus_accuracy") for row in rows]
    found = {
        "accuracy": last.get("consensus_accuracy"),
        "best": max((a for a in accuracies if a is not None), default=None),
        "mean_accuracy": last.get("mean_accuracy"),
        "worst_accuracy": last.get("worst_accuracy"),
        "bytes": _over(last.get("bytes_sent"), agents),
        # relative to what was to be sent, at the end; models sent whole lose nothing and are left out
        "compression_error": last.get("compression_error") if last.get("update_norm") else None,
        "gradient_evaluations": _over(last.get("gradient_evaluations"), agents),
        "step_milliseconds": _over(last.get("step_seconds"), max(1, last["step"]) / 1e3),
        "seconds": last.get("seconds"),
        "sam_sharpness": sharpness.get("sam_sharpness"),
        "top_eigenvalue": sharpness.get("top_eigenvalue"),
        "hessian_trace": sharpness.get("hessian_trace"),
        "mean_valley": sharpness.get("mean_valley"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _over(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def group(outcomes: list[Outcome], names: list[str], tuned: Iterable[str] = ()) -> list[Group]:
    """Runs with equal options but seeds together, in the order in which they come.

    `tuned` options are the last to be named where others tell the groups apart.
    """
    groups: dict[str, Group] = {}
    labels = Labels(outcome.cell.config for outcome in outcomes)
    for outcome in outcomes:
        config = outcome.cell.config
        options = {n: labels.of(n, getattr(config, n)) for n in names if n not in SEEDS}
        key = json.dumps(options, default=str)
        groups.setdefault(key, Group(options, [])).outcomes.append(outcome)
    found = list(groups.values())
    compared = [name for name in names if name not in SEEDS]
    named = tuple(telling([g.options for g in found], compared, tuned))
    return [replace(g, named=named) for g in found]


def telling(values: list[dict[str, Any]], names: list[str], tuned: Iterable[str]) -> list[str]:
    """A few of the options `names` that tell all `values` apart.

    What is not needed goes: tuned options first, then numbers, which an algorithm often brings with it, then words;
    later ones before earlier ones. The algorithm stays wherever it is offered.
    """

    def rank(name: str) -> int:
        is_word = any(isinstance(v[name], str) for v in values)
        return 0 if name in tuned else 2 if is_word else 1

    for name in sorted((n for n in reversed(names) if n != "algorithm"), key=rank):
        rest = [n for n in names if n != name]
        if len({repr([v[n] for n in rest]) for v in values}) == len(values):
            names = rest
    return names
