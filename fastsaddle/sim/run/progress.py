"""How far a run is: a live bar on a terminal, a line for each evaluation elsewhere."""

import time
from typing import Any

from rich import progress as rich_progress
from rich.console import Console
from torch import Tensor

SECONDS_BETWEEN_UPDATES = 0.1
# where there is no terminal: the longest silence of steps
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A bar on a terminal, one line per evaluation elsewhere.

    `start` steps were done before, and took `seconds`.
    """

    def __init__(self, console: Console, steps: int, start: int, seconds: float = 0.0) -> None:
        self.steps = steps
        self.start = start
        self.step = start
        self._before = self._seconds = seconds
        self._values = ""
        self._updated = 0.0 if console.is_terminal else time.perf_counter()
        self._bar = rich_progress.Progress(
            rich_progress.BarColumn(bar_width=8),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[values]}"),
            rich_progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, values="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    @property
    def steps_per_second(self) -> float:
        """Rate of the steps alone, without evaluations and checkpoints, since the start."""
        return (self.step - self.start) / max(self._seconds - self._before, 1e-9)

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """Count a step; the loss is only read, which waits for a GPU, when the bar is redrawn."""
        self.step, self._seconds = step, seconds
        now = time.perf_counter()
        pause = SECONDS_BETWEEN_LINES if self._bar.disable else SECONDS_BETWEEN_UPDATES
        if now - self._updated < pause:
            return
        self._updated = now
        if self._bar.disable:
            self._say(f"train loss {loss.item():.3f}  {self.steps_per_second:.4g} steps/s")
            return
        speed = f"{self.steps_per_second:.3g}/s"
        values = f"train loss {loss.item():.3f} {self._values} {speed}"
        self._bar.update(self._task, completed=step, values=values)

    def begin_evaluation(self, step: int) -> None:
        """Say on a terminal what takes time now; a line elsewhere where there was none for long."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=step, values=f"evaluating {self._values}")

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        self._note(row)
        if self._bar.disable:
            self._updated = time.perf_counter()
            # before the first step there is none
            speed = f"  {self.steps_per_second:.4g} steps/s" if self.step > self.start else ""
            self._say(
                f"test loss {number(row['loss'])}  consensus accuracy {percent(row['consensus_accuracy'])}  "
                f"mean {percent(row['mean_accuracy'])}  worst {percent(row['worst_accuracy'])}  "
                f"consensus distance {number(row['consensus_distance'])}  "
                f"{row['bytes_sent'] / 1e6:.1f} MB sent{speed}"
            )

    def _note(self, row: dict[str, Any]) -> None:
        """Keep what a bar says of an evaluation, short enough for 80 columns."""
        # by now a GPU has done the steps that were counted when they were only begun
        self._seconds = row["step_seconds"]
        accuracy = percent(row["consensus_accuracy"])
        distance, sent = number(row["consensus_distance"]), row["bytes_sent"] / 1e6
        self._values = f"acc {accuracy} dist {distance} {sent:.0f} MB"

    def _say(self, text: str) -> None:
        print(f"step {self.step:>{len(str(self.steps))}}/{self.steps}  {text}", flush=True)


def percent(fraction: float) -> str:
    """A fraction as a percentage: 96.7%."""
    return f"{fraction:.1%}"


def number(value: float | None) -> str:
    """Three digits of a value, which is None where it was infinite."""
    return "inf" if value is None else f"{value:.3g}"
