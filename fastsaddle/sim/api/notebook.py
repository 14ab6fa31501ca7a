"""Progress in a notebook: one line of HTML that is written anew, without widgets."""

import sys
import time
from html import escape
from typing import Any

from rich.console import Console
from torch import Tensor

from fastsaddle.sim.run.progress import Progress

SECONDS_BETWEEN_UPDATES = 0.2


def is_running() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class Bar(Progress):
    """A bar in a notebook's output, with the last loss and the last evaluation."""

    def __init__(self, console: Console, steps: int, start: int, seconds: float = 0.0) -> None:
        super().__init__(console, steps, start, seconds)
        self._said = ""
        self._handle: Any = None

    def __enter__(self) -> "Bar":
        from IPython.display import HTML, display

        self._handle = display(HTML(self._html()), display_id=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._show()

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """Count a step; the loss is only read when the bar is written anew."""
        self.step, self._seconds = step, seconds
        now = time.perf_counter()
        if now - self._updated < SECONDS_BETWEEN_UPDATES:
            return
        self._updated = now
        self._said = f"train loss {loss.item():.3f}"
        self._show()

    def begin_evaluation(self, step: int) -> None:
        """Say what takes time now."""
        self._said = "evaluating"
        self._show()

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        self._note(row)
        self._said = ""
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML

        self._handle.update(HTML(self._html()))

    def _html(self) -> str:
        speed = f"{self.steps_per_second:.3g} steps/s" if self.step > self.start else ""
        words = (f"step {self.step:,} of {self.steps:,}", self._said, self._values, speed)
        text = escape("  ·  ".join(filter(None, (word.strip() for word in words))))
        bar = f'<progress value="{self.step}" max="{self.steps}" style="width: 12em"></progress>'
        return f"<div>{bar} <code>{text}</code></div>"
