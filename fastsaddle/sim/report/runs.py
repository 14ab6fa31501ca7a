"""What lies in the directories of runs and comparisons, read without a lock: a run may still be going."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastsaddle.sim.comparison import results
from fastsaddle.sim.comparison.final_sharpness import SHARPNESS
from fastsaddle.sim.comparison.pool import DIVERGED
from fastsaddle.sim.comparison.tuning import Chosen
from fastsaddle.sim.config import NOT_STORED, TrainConfig

CONFIG, COMPARISON = "config.json", "compare.json"


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

    Raises ValueError for a directory that is neither a run nor a comparison, for a damaged file, and where no run
    has been evaluated yet.
    """
    # whole path -> path and name
    paths: dict[Path, tuple[Path, str]] = {}
    comparisons = []
    for directory in directories:
        if (directory / COMPARISON).exists():
            content = _read(directory / COMPARISON)
            _need(directory / COMPARISON, content, "cells")
            cells = [directory / cell["directory"] for cell in content["cells"]]
            begun = [cell for cell in cells if (cell / CONFIG).exists()]
            chosen = [Chosen.read(choice) for choice in content.get("chosen", [])]
            missing, tuning = len(cells) - len(begun), len(content.get("tuning", []))
            comparisons.append(Comparison(directory, missing, tuning, chosen))
        elif (directory / CONFIG).exists():
            begun = [directory]
        else:
            raise ValueError(
                f"{directory} is neither a run (it has no {CONFIG}) "
                f"nor a comparison (it has no {COMPARISON})"
            )
        for path in begun:
            name = Path(directory.resolve().name, path.relative_to(directory))
            paths.setdefault(path.resolve(), (path, str(name)))
    runs = [read(path, name) for path, name in paths.values()]
    if not any(run.rows for run in runs):
        names = ", ".join(map(str, directories))
        raise ValueError(f"no run has been evaluated yet in {names}")
    return runs, comparisons


def read(path: Path, name: str | None = None) -> Run:
    """The run in a directory, whose name is the directory's own unless given. Raises ValueError for a damaged file."""
    record = _read(path / CONFIG)
    _need(path / CONFIG, record, "algorithm", "agents", "steps")
    names = [field.name for field in fields(TrainConfig) if field.name not in NOT_STORED]
    values = {name: record[name] for name in names if name in record}
    if values.get("data_dir") is not None:
        values["data_dir"] = Path(values["data_dir"])
    return Run(
        path=path,
        name=name or path.resolve().name,
        config=TrainConfig(**values),
        record=record,
        rows=_rows(path / "metrics.jsonl"),
        diverged=_read_if_there(path / DIVERGED),
        partition=_read_if_there(path / "partition.json"),
        sharpness=_read_if_there(path / SHARPNESS) or {},
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = path.read_text()
    # a last line without its end is being written, or was torn by a crash
    whole = text[: text.rfind("\n") + 1].splitlines()
    try:
        return [json.loads(line) for line in whole]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return _read(path) if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold values by name, got {type(content).__name__}")
    return content


def _need(path: Path, content: dict[str, Any], *names: str) -> None:
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
