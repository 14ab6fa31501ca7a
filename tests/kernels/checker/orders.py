"""Other orders of programs than the ascending one: reversed, shuffled, and woven into one another."""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tests.kernels.checker.hooks import BUILDER, Program, Run

# programs that are woven at a time, as a multiprocessor holds some
AT_ONCE = 6


class Ordered:
    """Runs programs one after another, in the order that `order` makes of them."""

    def __init__(self, order: Callable[[Sequence[Program]], Sequence[Program]]) -> None:
        self.order, self.launches = order, 0

    def launch(self, kernel: str, programs: Sequence[Program], run: Run) -> None:
        self.launches += 1
        for program in self.order(programs):
            run(program)

    def access(self, *_: Any) -> None:
        """Nothing: programs are not interrupted."""

    def barrier(self) -> None:
        """Nothing either."""


class Thread:
    """A program that goes on when it is let, until it next meets memory."""

    def __init__(self, program: Program, run: Run) -> None:
        self.program, self.error = program, None
        self.may_go, self.rests = threading.Semaphore(0), threading.Semaphore(0)
        self.has_ended = False

        def work() -> None:
            self.may_go.acquire()
            try:
                run(program)
            except BaseException as error:
                self.error = error
            self.has_ended = True
            self.rests.release()

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def go_on(self) -> None:
        self.may_go.release()
        self.rests.acquire()
        if self.error is not None:
            raise self.error

    def rest(self) -> None:
        place = BUILDER.grid_idx
        self.rests.release()
        self.may_go.acquire()
        BUILDER.grid_idx = place


class Woven:
    """Runs some programs at a time; who goes on is drawn at each memory operation and barrier."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.launches, self.switches = draw, 0, 0

    def launch(self, kernel: str, programs: Sequence[Program], run: Run) -> None:
        self.launches += 1
        waiting = list(programs)
        self.draw.shuffle(waiting)
        live: list[Thread] = []
        while live or waiting:
            while waiting and len(live) < AT_ONCE:
                live.append(Thread(waiting.pop(), run))
            self._goes = self.draw.choice(live)
            self._goes.go_on()
            if self._goes.has_ended:
                live.remove(self._goes)

    def access(self, *_: Any) -> None:
        self.switches += 1
        self._goes.rest()

    def barrier(self) -> None:
        self._goes.rest()


def reversed_order() -> Ordered:
    return Ordered(lambda programs: programs[::-1])


def shuffled(draw: random.Random) -> Ordered:
    return Ordered(lambda programs: draw.sample(programs, len(programs)))
