"""A run's own directory: its config.json, its metrics.jsonl, and the right to write in it."""

import errno
import fcntl
import json
import os
import re
import time
import weakref
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fastsaddle.sim.config import NOT_STORED, TrainConfig
from fastsaddle.sim.run.checkpoint import sync, write_synced
from fastsaddle.sim.run.labels import label

# options that came with a later version, whose default is not what was done before
BEFORE = {"cuda_graph": "off"}
# what every version has written to config.json
ALWAYS_STORED = (
    *("algorithm", "dataset", "data_dir", "model", "agents", "topology", "partition", "alpha"),
    *("steps", "batch_size", "lr", "seed", "device", "engine", "threads", "eval_every"),
)


class RunInUseError(ValueError):
    """Another process writes in this run's directory."""


class RunDirectory:
    """The files of one run, which one process at a time may write.

    `config` is config.json's content: every option with its resolved value, and besides them
    `backend`, `machine` and `versions`. `rows` are the lines of metrics.jsonl.
    """

    def __init__(self, path: Path) -> None:
        """Open a run that exists. ValueError when it is none, or when another process has it."""
        self.path = path
        self._lock(path / "config.json")
        try:
            self.config: dict[str, Any] = json.loads((path / "config.json").read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path / 'config.json'} is damaged: {error}") from error
        self._metrics = path / "metrics.jsonl"
        self.rows = read_rows(self._metrics)

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunDirectory":
        """Make a directory (or take an empty one) and write its config.json."""
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        write_synced(path / "config.json", json.dumps(config, indent=2) + "\n")
        return cls(path)

    @property
    def options(self) -> TrainConfig:
        """The run's options; one that came with a later version has the value of what was done before.

        ValueError when config.json lacks what every version wrote.
        """
        missing = [name for name in ALWAYS_STORED if name not in self.config]
        if missing:
            raise ValueError(f"{self.path / 'config.json'} lacks {', '.join(missing)}")
        names = [field.name for field in fields(TrainConfig) if field.name not in NOT_STORED]
        known = {**BEFORE, **self.config}
        values = {name: known[name] for name in names if name in known}
        data_dir = values["data_dir"]
        values["data_dir"] = None if data_dir is None else Path(data_dir)
        options = TrainConfig(**values)
        options.check()
        return options

    def describe_partition(self, counts: np.ndarray, classes: tuple[str, ...]) -> None:
        """Write partition.json: the samples of each class `[agents, classes]`, and the classes' names."""
        content = {"classes": classes, "counts": counts.tolist()}
        write_synced(self.path / "partition.json", json.dumps(content) + "\n")

    def append(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, readable at once."""
        self.rows.append(row)
        with self._metrics.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Force metrics.jsonl to disk, so that no checkpoint is newer than its rows."""
        sync(self._metrics)

    def drop_rows_after(self, step: int) -> None:
        """Forget evaluations of steps that will be done again, and a line torn by a crash."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        write_synced(self._metrics, "".join(json.dumps(row) + "\n" for row in self.rows))

    def close(self) -> None:
        """Let another process, or this one again, write in this run's directory."""
        self._release()

    def _lock(self, path: Path) -> None:
        """Hold a lock, which ends with this object or with the process, however that dies."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise ValueError(f"{self.path} is not a run: {error}") from error
        # also where nobody closes it; a traceback may keep this object for long
        self._release = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunInUseError(f"{self.path} is in use by another process") from error
        except OSError as error:
            # some network file systems have no locks: nobody is kept out there
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise


def check_new(path: Path) -> None:
    """Raise ValueError unless the path is free for a new run."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {path} is a file, a new or empty directory is needed")
    if path.is_dir() and any(path.iterdir()):
        ways = "choose another directory"
        if (path / "config.json").exists():
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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to one torn by a crash, if there is one; none where there is no file."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
