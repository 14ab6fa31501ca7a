"""TensorBoard's event files beside metrics.jsonl, for those who watch many runs in it."""

from typing import Any

from fastsaddle.sim.tracker import State, Tracked, Tracker

NEEDED = "--track tensorboard needs the package tensorboard: pip install tensorboard"


class TensorBoard(Tracker):
    """Writes each line of metrics.jsonl as scalars, into the folder `tensorboard` of a run.

    What a killed run wrote after `step` is hidden when it goes on. Raises ImportError without the package.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"{NEEDED} ({error})") from error
        self._kind: Any = SummaryWriter
        self._writer: Any = None

    def begin(self, run: Tracked) -> None:
        """Open the folder."""
        purge = run.step + 1 if run.step else None
        self._writer = self._kind(str(run.directory / "tensorboard"), purge_step=purge)

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl; values that were not finite are left out."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def end(self, state: State) -> None:
        """Close the files."""
        self._writer.close()
