"""Weights & Biases: a run of its for each run, in the run's directory unless it is told to send it."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from fastsaddle.sim.run.whole_files import write_synced
from fastsaddle.sim.tracker import State, Tracked, Tracker

NEEDED = "--track wandb needs the package wandb: pip install wandb"
PROJECT = "fastsaddle"


class WandB(Tracker):
    """Logs each line of metrics.jsonl, and all options, into the folder `wandb` of a run.

    Nothing is sent: `wandb sync` does, or `WANDB_MODE=online` in the environment. A run that goes on has the same id,
    which `wandb/id` holds, so that it is one run there. wandb's other variables are wandb's.

    Args:
        project: None is that of WANDB_PROJECT, or fastsaddle.

    Raises:
        ImportError: the package wandb is not installed.
    """

    def __init__(self, project: str | None = None) -> None:
        self._mode = os.environ.get("WANDB_MODE") or "offline"
        if self._mode != "online":
            # what goes wrong in wandb itself it would send to its authors
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError as error:
            raise ImportError(f"{NEEDED} ({error})") from error
        self._wandb: Any = wandb
        self._project = project or os.environ.get("WANDB_PROJECT") or PROJECT
        self._run: Any = None

    def begin(self, run: Tracked) -> None:
        """Open a run of wandb's, the same as before where this one goes on."""
        self._run = self._wandb.init(
            project=self._project,
            name=run.directory.name,
            id=_id_in(run.directory / "wandb"),
            dir=str(run.directory),
            config=run.options,
            mode=self._mode,
            resume="allow" if self._mode == "online" else None,
            # the terminal belongs to the run
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Log a line of metrics.jsonl; values that were not finite are left out."""
        told = {n: v for n, v in row.items() if n != "step" and v is not None}
        self._run.log(told, step=row["step"], commit=True)

    def end(self, state: State) -> None:
        """Close the run, as failed where it has failed."""
        self._run.finish(exit_code=int(state == "failed"))


def _id_in(folder: Path) -> str:
    """The id of this run, the same each time that it goes on."""
    file = folder / "id"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        write_synced(file, uuid4().hex[:12] + "\n")
    return file.read_text().strip()
