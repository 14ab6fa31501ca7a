"""Let Ctrl-C and SIGTERM end a run after the step in progress instead of in the middle of it."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch import Tensor

STDOUT = 1


class Interrupts:
    """Notes the first SIGINT or SIGTERM inside the `with` block and says so at once; a second one acts at once.

    `received` is the signal's number, 0 as long as none came; `doing` and `after` are what is said, and may change. As
    an observer of a run it knows what is waited for; `agreed`, where it is set, says what several processes wait for.
    Signals within `patience` seconds of the first count as the same: a launcher passes on what the terminal has sent to
    its processes too. `is_quiet` says nothing.
    """

    def __init__(
        self,
        doing: str = "this step",
        after: str = "with a checkpoint",
        patience: float = 0.0,
        is_quiet: bool = False,
    ) -> None:
        self.received = 0
        self.doing, self.after = doing, after
        self.agreed: Callable[[], str] | None = None
        self._patience, self._is_quiet, self._since = patience, is_quiet, 0.0

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """The next one begins, if no evaluation does."""
        self.doing = "this step"

    def begin_evaluation(self, step: int) -> None:
        """From now on an evaluation is waited for."""
        self.doing = "this evaluation"

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """It is over."""
        self.doing = "this step"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if time.monotonic() > self._since + self._patience:
                self._restore()
                # on Windows os.kill would end the process whatever the number
                signal.raise_signal(number)
            return
        self.received, self._since = number, time.monotonic()
        if not self._patience:
            self._restore()
        if self._is_quiet:
            return
        # past the stream's own buffer and lock, which what was interrupted may hold
        doing = self.doing if self.agreed is None else self.agreed()
        os.write(STDOUT, f"\nstopping after {doing}, {self.after}\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
