"""Let Ctrl-C and SIGTERM end a run after the step in progress instead of in the middle of it."""

import signal
from types import FrameType


class Interrupts:
    """Notes the first SIGINT or SIGTERM inside the `with` block; a second one acts at once.

    `received` is the signal's number, 0 as long as none came.
    """

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
