"""TensorBoard's event files beside metrics.jsonl, for those who watch many runs in it."""

from pathlib import Path
from typing import Any

from torch import Tensor

NEEDED = "--tensorboard needs the package tensorboard: pip install tensorboard"


def writer_class() -> Any:
    """torch's SummaryWriter. Raises ImportError, with what to install, without the package tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(f"{NEEDED} ({error})") from error
    return SummaryWriter


class TensorBoard:
    """Writes each line of metrics.jsonl as scalars, into the folder `tensorboard` of a run.

    What a killed run wrote after `step` is hidden when it goes on. Raises ImportError without the package.
    """

    def __init__(self, directory: Path, step: int) -> None:
        purge = step + 1 if step else None
        self._writer = writer_class()(str(directory / "tensorboard"), purge_step=purge)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """Nothing: reading the loss of each step would wait for a GPU."""

    def begin_evaluation(self, step: int) -> None:
        """Nothing."""

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl; values that were not finite are left out."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()
