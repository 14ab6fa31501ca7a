"""A run's own directory: its config.json, its metrics.jsonl, and the right to write in it."""

import itertools
import json
import logging
import re
import time
import weakref
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from fastsaddle.sim import json_files
from fastsaddle.sim.config import COUNTS, NOT_STORED, TrainConfig, option
from fastsaddle.sim.run.checkpoint import is_leftover, remove_leftovers
from fastsaddle.sim.run.directory_lock import LOCK, lock
from fastsaddle.sim.run.labels import label
from fastsaddle.sim.run.records import Extension, Recorded, Row
from fastsaddle.sim.run.whole_files import sync, write_synced

LOG = logging.getLogger(__name__)

CONFIG = "config.json"
# options that came with a later version, whose default is not what was done before
BEFORE = {"cuda_graph": "off"}
# what every version has written to config.json
ALWAYS_STORED = (
    *("algorithm", "dataset", "data_dir", "model", "agents", "topology", "partition", "alpha"),
    *("steps", "batch_size", "lr", "seed", "device", "engine", "threads", "eval_every"),
)


class RunDirectory:
    """The files of one run, which one process at a time may write.

    `config` is config.json's content: every option with its resolved value, and besides them
    `backend`, `machine` and `versions`. `rows` are the lines of metrics.jsonl.
    """

    def __init__(self, path: Path) -> None:
        """Open a run that exists. ValueError when it is none, or when another process has it."""
        try:
            # first: nothing is left in a folder that is no run
            (path / CONFIG).stat()
        except OSError as error:
            raise ValueError(f"{path} is not a run: {error}") from error
        try:
            release = lock(path)
        except OSError as error:
            raise ValueError(f"nothing can be written in {path}: {error}") from error
        self._hold(path, release)

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunDirectory":
        """Make a directory (or take an empty one) and write its config.json.

        What a killed process left half written there is replaced. Raises ValueError where another process has the
        directory, or has made a run of it meanwhile.
        """
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        release = lock(path)
        try:
            check_new(path)
            write_synced(path / CONFIG, json.dumps(config, indent=2) + "\n")
            remove_leftovers(path)
        except BaseException:
            release()
            raise
        self = cls.__new__(cls)
        self._hold(path, release)
        return self

    def _hold(self, path: Path, release: Callable[[], None]) -> None:
        """Read the files of a run whose lock ends by `release`, with this object or with the process."""
        # also where nobody closes it; a traceback may keep this object for long
        self._release = weakref.finalize(self, release)
        self.path = path
        self.config = json_files.read(path / CONFIG)
        self.metrics = path / "metrics.jsonl"
        self.rows = read_rows(self.metrics)

    @property
    def options(self) -> TrainConfig:
        """The run's options; one that came with a later version has the value of what was done before.

        ValueError when config.json lacks what every version wrote, or holds what no version writes.
        """
        file = self.path / CONFIG
        check_record(file, self.config, ALWAYS_STORED)
        options = stored_options({**BEFORE, **self.config})
        try:
            options.check()
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return options

    def extend(self, step: int, steps: int, epochs: float | None) -> None:
        """Record another number of steps, and in `extended` what it was, with the steps done by then."""
        before = Extension(
            at_step=step, steps=self.config["steps"], epochs=self.config.get("epochs")
        )
        earlier = self.config.get("extended", [])
        self.config |= {"steps": steps, "epochs": epochs, "extended": [*earlier, before]}
        write_synced(self.path / CONFIG, json.dumps(self.config, indent=2) + "\n")

    def describe_partition(self, counts: np.ndarray, classes: tuple[str, ...]) -> None:
        """Write partition.json: the samples of each class `[agents, classes]`, and the classes' names."""
        content = {"classes": classes, "counts": counts.tolist()}
        write_synced(self.path / "partition.json", json.dumps(content) + "\n")

    def append(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, readable at once."""
        self.rows.append(row)
        with self.metrics.open("a", newline="\n") as stream:
            stream.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Force metrics.jsonl to disk, so that no checkpoint is newer than its rows."""
        sync(self.metrics)

    def drop_rows_after(self, step: int) -> None:
        """Forget evaluations of steps that will be done again, and a line torn by a crash."""
        kept = [row for row in self.rows if row["step"] <= step]
        if len(kept) < len(self.rows):
            more = len(self.rows) - len(kept)
            LOG.info("%d evaluations after step %d are to be done again", more, step)
        self.rows = kept
        write_synced(self.metrics, "".join(json.dumps(row) + "\n" for row in self.rows))

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half written."""
        remove_leftovers(self.path)

    def close(self) -> None:
        """Let another process, or this one again, write in this run's directory."""
        self._release()


def check_new(path: Path) -> None:
    """Raise ValueError unless the path is free for a new run; what a killed process left is no obstacle."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {path} is a file, a new or empty directory is needed")
    if path.is_dir() and not all(p.name == LOCK or is_leftover(p) for p in path.iterdir()):
        ways = "choose another directory"
        if (path / CONFIG).exists():
            ways += f", or go on with that run: fastsaddle train --resume {path}"
        raise ValueError(f"--out {path} is not empty: {ways}")


def make_unique(config: TrainConfig) -> Path:
    """A new directory under runs/ whose name tells what the run is; no other process gets it."""
    what = (config.algorithm, config.dataset, config.model)
    named = (*(label(text).split(":")[0] for text in what), config.agents, label(config.topology))
    parts = (re.sub(r"[^\w.]+", "-", str(part)).strip("-.") for part in named)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = "-".join(map(str, (*parts, f"a{config.alpha:g}", f"s{config.seed}", stamp)))
    path, number = Path("runs", name), 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = Path("runs", f"{name}-{number}")


def check_record(file: Path, record: dict[str, Any], needed: Collection[str]) -> None:
    """Raise ValueError unless config.json's content has `needed`, and nothing but options and surroundings."""
    json_files.check(record, _kinds(), needed, str(file), closed=True)
    for name in COUNTS:
        if (value := record.get(name)) is not None and value < 1:
            raise ValueError(f"{file}: --{option(name)} must be >= 1, got {value}")


@cache
def _kinds() -> dict[str, Any]:
    return {**get_type_hints(TrainConfig), **get_type_hints(Recorded)}


def read_steps(file: Path) -> int:
    """The number of steps of a run by its config.json."""
    record = json_files.read(file)
    check_record(file, record, ["steps"])
    return record["steps"]


def stored_options(record: dict[str, Any]) -> TrainConfig:
    """The options in config.json's content, those that it lacks by their defaults; not checked."""
    names = [n for n in get_type_hints(TrainConfig) if n not in NOT_STORED and n in record]
    values = {name: record[name] for name in names}
    if values.get("data_dir") is not None:
        values["data_dir"] = Path(values["data_dir"])
    return TrainConfig(**values)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for a last one torn by a crash, if there is one; none where there is no file.

    Raises ValueError, which names the line, for one that is damaged or no row.
    """
    if not path.exists():
        return []
    *whole, last = path.read_bytes().split(b"\n")
    texts = [*whole, last] if last and not _is_torn(last) else whole
    rows = [read_row(path, text, f"line {number}") for number, text in enumerate(texts, 1)]
    steps = [row["step"] for row in rows]
    for number, (before, after) in enumerate(itertools.pairwise(steps), 2):
        if after <= before:
            raise ValueError(f"{path} is damaged: line {number}: step {after} after {before}")
    return rows


def _is_torn(text: bytes) -> bool:
    """Whether a line without its end is still being written, or was never written to its end."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def read_row(path: Path, text: bytes, line: str) -> dict[str, Any]:
    """A line of metrics.jsonl. Raises ValueError, which names the line, for one that is damaged or no row."""
    row = json_files.parse(text, str(path), f"{line}: ")
    json_files.check_as(row, Row, f"{path} is damaged: {line}")
    return row
