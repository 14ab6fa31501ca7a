"""Signals wait while a step is taken, so that it is done whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    # typeshed does not know where they come from
    getsignal: Callable[[int], Any]
    set_handler: Callable[[int, Any], Any]
else:
    # without the enums of the module signal, which take most of its time
    from _signal import getsignal
    from _signal import signal as set_handler

SIGNALS = tuple(sorted(map(int, signal.valid_signals())))
Handler = Callable[[int, FrameType | None], Any]
Result = TypeVar("Result")
# exhausts an iterator in one instruction of the interpreter, after which alone handlers can run
at_once = deque[Any](maxlen=0).extend


class Stub:
    """Stands in for a handler: lets it run at once, or notes that it is to run later."""

    __slots__ = ("handler",)

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if waiting.is_open:
            self.handler(number, frame)
        else:
            waiting.held.append((self.handler, number, frame))


class Waiting:
    """Which handlers wait, and what has come for them; the interpreter has one main thread, and one of these.

    Attributes:
        is_open: whether handlers run at once, also those that a stub stands in for.
        held: what is to be run, in order.
        stubs: what stands in for handlers that are written in Python, by the signal's number.
        found, ours: all signals' handlers as they were last found, and with stubs in their place.
    """

    __slots__ = ("found", "held", "is_open", "ours", "stubs")

    def __init__(self) -> None:
        self.is_open = True
        self.held: list[tuple[Handler, int, FrameType | None]] = []
        self.stubs: dict[int, Stub] = {}
        self.found: list[Any] = []
        self.ours: list[Any] = []

    def close(self) -> None:
        """Let handlers wait from now on."""
        self.is_open = False
        found = list(map(getsignal, SIGNALS))
        if found == self.ours:
            return
        if found != self.found:
            ours = [Stub(h) if callable(h) and not isinstance(h, Stub) else h for h in found]
            named = zip(SIGNALS, ours, strict=True)
            stubs = {number: stub for number, stub in named if isinstance(stub, Stub)}
            self.found, self.ours, self.stubs = found, ours, stubs
        at_once(map(set_handler, self.stubs, self.stubs.values()))

    def put_back(self) -> None:
        """Put handlers where stubs stand in for them; one that was changed meanwhile stays."""
        mine = [number for number, stub in self.stubs.items() if getsignal(number) is stub]
        handlers = [self.stubs[number].handler for number in mine]
        # a handler that is back may raise while others are not; should all tries fail, stubs let handlers run
        first, second, third = (map(set_handler, mine, handlers) for _ in range(3))
        try:
            at_once(first)
        except BaseException:
            try:
                at_once(second)
            finally:
                at_once(third)
            raise

    def run(self) -> None:
        """Run what has come, all of it, also where a handler raises; meanwhile others run at once."""
        held, was_open = self.held, self.is_open
        try:
            while held:
                handler, number, frame = held[0]
                del held[0]
                self.is_open = True
                try:
                    handler(number, frame)
                finally:
                    self.is_open = was_open
        finally:
            if held:
                self.run()

    def forget(self) -> None:
        """In a forked child, which never leaves the `with` blocks of its parent's other threads."""
        self.is_open, self.held = True, []


waiting = Waiting()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=waiting.forget)


class Commit:
    """Inside the `with` block handlers of signals that are written in Python wait; they run when it is left.

    Handlers run in the main thread alone, between two instructions, and may raise (Ctrl-C does): in another thread, and
    in a commit inside another, there is nothing to do. Default actions and handlers written in C are left as they are.
    """

    __slots__ = ("_closes",)

    def __enter__(self) -> Commit:
        self._closes = waiting.is_open and in_main_thread()
        if self._closes:
            try:
                waiting.close()
            except BaseException:
                # first of all: whatever comes now, handlers must not wait for ever
                waiting.is_open = True
                self.__exit__()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._closes:
            try:
                if waiting.held:
                    waiting.run()
            finally:
                try:
                    waiting.put_back()
                finally:
                    waiting.is_open = True
                    if waiting.held:
                        waiting.run()

    def deliver(self) -> None:
        """Run what has come so far; later handlers wait, so that what is undone after an error is undone in peace."""
        if self._closes:
            waiting.run()


def interruptible(call: Callable[[], Result]) -> Result:
    """Call what may take long: handlers run at once meanwhile, and wait again afterwards where they waited before."""
    if waiting.is_open or not in_main_thread():
        return call()
    # no handler runs between these lines and the block, nor between the block's end and the line that closes
    waiting.is_open = True
    try:
        waiting.run()
        return call()
    finally:
        waiting.is_open = False
        waiting.close()


def in_main_thread() -> bool:
    return get_ident() == threading.main_thread().ident
