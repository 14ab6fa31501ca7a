"""Signals wait while a step changes things, so that it is done whole or not at all."""

import signal
import threading
from _signal import getsignal  # without the enums of the module signal, which take most of its time
from _signal import signal as set_handler
from collections import deque
from collections.abc import Callable, Iterable
from itertools import repeat
from types import FrameType
from typing import Any

SIGNALS = tuple(sorted(map(int, signal.valid_signals())))
Handler = Callable[[int, FrameType | None], Any]


class Commit:
    """Inside the `with` block handlers of signals that are written in Python wait; they run when it is left.

    Handlers run in the main thread alone, between two instructions, and may raise (Ctrl-C does): in another thread, and
    in a commit inside another, there is nothing to do. Default actions and handlers written in C are left as they are.
    """

    _active = False
    # all handlers as they were last found, and those of them that can be called, by number
    _last: tuple[list[Any], dict[int, Handler]] = ([], {})

    def __enter__(self) -> "Commit":
        self._handlers: dict[int, Handler] = {}
        self._held: list[tuple[int, FrameType | None]] = []
        if Commit._active or threading.get_ident() != threading.main_thread().ident:
            return self
        found = list(map(getsignal, SIGNALS))
        if found != Commit._last[0]:
            named = zip(SIGNALS, found, strict=True)
            Commit._last = found, {n: h for n, h in named if callable(h)}
        handlers = Commit._last[1]
        if handlers:
            self._handlers = handlers
            try:
                at_once(map(set_handler, handlers, repeat(self._hold)))
                Commit._active = True
            except BaseException:
                self._restore()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._handlers:
            self._restore()
            for number, frame in self._held:
                self._handlers[number](number, frame)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._held.append((number, frame))

    def _restore(self) -> None:
        """Put all handlers back, also where one that is back already raises meanwhile."""
        Commit._active = False
        numbers, handlers = self._handlers.keys(), self._handlers.values()
        try:
            at_once(map(set_handler, numbers, handlers))
        except BaseException:
            try:
                at_once(map(set_handler, numbers, handlers))
            finally:
                at_once(map(set_handler, numbers, handlers))
            raise


def at_once(calls: Iterable[Any]) -> None:
    """Make all calls in one instruction of the interpreter, after which alone other handlers can run."""
    deque(calls, maxlen=0)
