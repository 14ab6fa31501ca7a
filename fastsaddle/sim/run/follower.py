"""A run's directory as the processes see it that do not write there: of several, all but the first."""

from pathlib import Path
from typing import Any

import numpy as np

from fastsaddle.sim.run.records import Extension
from fastsaddle.sim.run.run_dir import RunDirectory


class Follower(RunDirectory):
    """What the first process wrote, kept up to date in memory; files are left to that one.

    Args:
        path, config, rows: the directory, and the contents of config.json and of metrics.jsonl.
    """

    def __init__(self, path: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.path, self.config, self.rows = path, config, rows
        self.metrics = path / "metrics.jsonl"

    def extend(self, step: int, steps: int, epochs: float | None) -> None:
        """Know another number of steps."""
        earlier = self.config.get("extended", [])
        before = Extension(
            at_step=step, steps=self.config["steps"], epochs=self.config.get("epochs")
        )
        self.config |= {"steps": steps, "epochs": epochs, "extended": [*earlier, before]}

    def describe_partition(self, counts: np.ndarray, classes: tuple[str, ...]) -> None:
        """The first process writes it."""

    def append(self, row: dict[str, Any]) -> None:
        """Know another line of metrics.jsonl."""
        self.rows.append(row)

    def sync(self) -> None:
        """There is nothing here to be on disk."""

    def remove_leftovers(self) -> None:
        """The first process does."""

    def drop_rows_after(self, step: int) -> None:
        """Forget evaluations of steps that will be done again."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def close(self) -> None:
        """There is no lock here."""
