"""The trackers of a run as one observer: none of them can lose it."""

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from fastsaddle.sim.run.job import Job
from fastsaddle.sim.tracker import State, Tracked, Tracker

LOG = logging.getLogger(__name__)


class Tracking:
    """Tells trackers what happens, from the beginning of the `with` block to its end, however it ends.

    One that raises is told in a warning, and left out from there on.

    Args:
        job: the run.
        trackers: who is told.
    """

    def __init__(self, job: Job, trackers: Sequence[Tracker]) -> None:
        self._job, self._trackers = job, list(trackers)

    def __enter__(self) -> "Tracking":
        job = self._job
        run = Tracked(job.directory.path, dict(job.directory.config), job.step)
        self._tell(lambda tracker: tracker.begin(run))
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        is_done = self._job.step >= self._job.config.steps
        state: State = "finished" if is_done else "stopped"
        if kind is not None and issubclass(kind, Exception):
            state = "failed"
        self._tell(lambda tracker: tracker.end(state))

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """After each step."""
        self._tell(lambda tracker: tracker.show_step(step, loss, seconds))

    def begin_evaluation(self, step: int) -> None:
        """Before each evaluation."""
        self._tell(lambda tracker: tracker.begin_evaluation(step))

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """After each evaluation; each tracker has a line of its own."""
        self._tell(lambda tracker: tracker.show_evaluation(dict(row)))

    def _tell(self, word: Callable[[Tracker], None]) -> None:
        for tracker in [*self._trackers]:
            try:
                word(tracker)
            except Exception as error:
                self._leave_out(tracker, error)

    def _leave_out(self, tracker: Tracker, error: Exception) -> None:
        self._trackers.remove(tracker)
        name, reason = type(tracker).__name__, " ".join(f"{type(error).__name__}: {error}".split())
        said = (
            f"tracker {name} failed at step {self._job.step}, the run goes on without it: {reason}"
        )
        LOG.info("%s", said, exc_info=error)
        warnings.warn(said, RuntimeWarning, stacklevel=2)
        # what it holds open
        with suppress(Exception):
            tracker.end("failed")
