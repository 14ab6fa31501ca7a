"""What lies in the directories of runs and comparisons, read without a lock: a run may still be going."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from fastsaddle.sim import json_files
from fastsaddle.sim.comparison import results
from fastsaddle.sim.comparison.final_sharpness import SHARPNESS
from fastsaddle.sim.comparison.pool import DIVERGED
from fastsaddle.sim.comparison.tuning import Chosen
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import records
from fastsaddle.sim.run.paths import inside
from fastsaddle.sim.run.run_dir import CONFIG, check_record, read_rows, stored_options

# exact as floating point numbers
MOST = 2**53
COMPARISON, PARTITION = "compare.json", "partition.json"


@dataclass(frozen=True)
class Run:
    """One run: its options, config.json's whole content, and the lines of metrics.jsonl.

    `name` is its directory, without the folders around what the report was asked for. `diverged` is the content of
    diverged.json, `partition` that of partition.json, None where there is none.
    """

    path: Path
    name: str
    config: TrainConfig
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    diverged: dict[str, Any] | None
    partition: dict[str, Any] | None
    sharpness: dict[str, Any]

    @property
    def step(self) -> int:
        """The step of the last evaluation."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def is_finished(self) -> bool:
        """Whether the last step has been evaluated."""
        return self.diverged is None and self.step == self.config.steps

    @property
    def state(self) -> str:
        """How far the run is, for people."""
        if self.diverged is not None:
            return f"diverged at step {self.diverged['step']:,}: {self.diverged['message']}"
        if self.is_finished:
            return "finished"
        return f"at step {self.step:,} of {self.config.steps:,}"

    @property
    def measures(self) -> dict[str, float]:
        """What the table of a comparison shows of a run, as of its last evaluation; what it lacks is left out."""
        return results.measures(self.rows, self.config.agents, self.sharpness)


@dataclass(frozen=True)
class Comparison:
    """What a comparison's directory tells besides its runs."""

    path: Path
    missing: int
    tuning_runs: int
    chosen: list[Chosen]


def read_all(directories: list[Path]) -> tuple[list[Run], list[Comparison]]:
    """All runs, each once, in the order of the directories and of each compare.json.

    Raises ValueError for a directory that is neither a run nor a comparison, for a damaged file and for one that lies
    elsewhere.
    """
    # whole path -> path and name
    paths: dict[Path, tuple[Path, str]] = {}
    comparisons = []
    for directory in directories:
        if (directory / COMPARISON).exists():
            content = _read(directory, COMPARISON, records.Comparison) or {}
            cells = [inside(directory, cell["directory"]) for cell in content["cells"]]
            begun = [cell for cell in cells if (cell / CONFIG).exists()]
            chosen = _chosen(directory / COMPARISON, content)
            missing, tuning = len(cells) - len(begun), len(content.get("tuning", []))
            comparisons.append(Comparison(directory, missing, tuning, chosen))
        elif (directory / CONFIG).exists():
            begun = [directory]
        else:
            holds_runs = next(directory.glob(f"*/{CONFIG}"), None) is not None
            raise ValueError(
                f"{directory} is neither a run (it has no {CONFIG}) "
                f"nor a comparison (it has no {COMPARISON})"
                + f"; runs lie in it: name them, as {directory}/*"
                * holds_runs
            )
        for path in begun:
            name = Path(directory.resolve().name, path.relative_to(directory))
            paths.setdefault(path.resolve(), (path, str(name)))
    return [read(path, name) for path, name in paths.values()], comparisons


def read(path: Path, name: str | None = None) -> Run:
    """The run in a directory, whose name is the directory's own unless given. Raises ValueError for a damaged file."""
    file = inside(path, CONFIG)
    record = json_files.read(file)
    check_record(file, record, ("algorithm", "agents", "steps"))
    config = stored_options(record)
    return Run(
        path=path,
        name=name or path.resolve().name,
        config=config,
        record=record,
        rows=read_rows(inside(path, "metrics.jsonl")),
        diverged=_read(path, DIVERGED, records.Diverged),
        partition=_partition(path, config.agents),
        sharpness=_read(path, SHARPNESS, records.Sharpness) or {},
    )


def _chosen(file: Path, content: dict[str, Any]) -> list[Chosen]:
    kinds = get_type_hints(TrainConfig)
    for number, choice in enumerate(found := content.get("chosen", [])):
        for part in ("when", "values"):
            where = f"{file}: chosen[{number}].{part}"
            json_files.check(choice[part], kinds, (), where, closed=True)
    return [Chosen.read(choice) for choice in found]


def _partition(path: Path, agents: int) -> dict[str, Any] | None:
    content = _read(path, PARTITION, records.Partition)
    if content is None:
        return None
    counts, classes = content["counts"], len(content["classes"])
    fits = all(len(row) == classes and all(0 <= n < MOST for n in row) for row in counts)
    if not (fits and classes and len(counts) == agents):
        raise ValueError(
            f"{path / PARTITION}: counts must be {agents} rows of {classes} numbers >= 0, for the agents and classes"
        )
    return content


def _read(folder: Path, name: str, kind: Any) -> dict[str, Any] | None:
    return json_files.read_as(inside(folder, name), kind)
