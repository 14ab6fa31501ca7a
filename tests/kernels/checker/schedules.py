"""In which order the programs of a launch run: ascending, reversed, shuffled, or woven into each other."""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.kernels.checker.hooks import Launch

# woven programs that are under way at the same time, as a device holds some of a grid
RESIDENT = 16


class Schedule(Protocol):
    """Runs programs; `program` is the one that is running."""

    program: int

    def run(self, launch: Launch) -> None:
        """Run every program of a launch once."""

    def pause(self) -> None:
        """Called by the running program before it touches memory."""


class Whole:
    """One program after the other, each without a pause."""

    def __init__(self, order: Callable[[int], Sequence[int]]) -> None:
        self.order, self.program = order, 0

    def run(self, launch: Launch) -> None:
        for program in self.order(launch.programs):
            self.program = program
            launch.enter(program)
            launch.run(program)

    def pause(self) -> None:
        pass


class Stopped(BaseException):
    """Ends a woven program where another one has failed."""


class Woven:
    """Programs as threads that pass a baton: who goes on is drawn at each memory operation."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.program = draw, 0

    def run(self, launch: Launch) -> None:
        self.launch, self.failure = launch, None
        self.resident = self.draw.randint(2, RESIDENT)
        self.waiting = self.draw.sample(range(launch.programs), launch.programs)
        # who has begun -> what it waits for
        self.gates: dict[int, threading.Semaphore] = {}
        self.over = threading.Semaphore(0)
        self.pass_on()
        self.over.acquire()
        if self.failure is not None:
            raise self.failure

    def pause(self) -> None:
        mine = self.program
        following = self.drawn()
        if following == mine:
            return
        gate = self.gates[mine]
        self.gates[following].release()
        gate.acquire()
        self.resume(mine)

    def drawn(self) -> int:
        """Who goes on: one that has begun, or one that begins now."""
        begun = [*self.gates]
        fits = self.waiting and len(begun) < self.resident
        choice = self.draw.randrange(len(begun) + bool(fits))
        if choice < len(begun):
            return begun[choice]
        program = self.waiting.pop()
        self.gates[program] = threading.Semaphore(0)
        threading.Thread(target=self.body, args=(program,), daemon=True).start()
        return program

    def pass_on(self) -> None:
        if self.gates or self.waiting:
            self.gates[self.drawn()].release()
        else:
            self.over.release()

    def resume(self, program: int) -> None:
        if self.failure is not None:
            raise Stopped
        self.program = program
        self.launch.enter(program)

    def body(self, program: int) -> None:
        self.gates[program].acquire()
        try:
            self.resume(program)
            self.launch.run(program)
        except Stopped:
            pass
        except BaseException as error:
            self.failure = error
            self.waiting.clear()
        del self.gates[program]
        self.pass_on()


def schedules(draw: random.Random) -> dict[str, Schedule]:
    """By name; the others must give what the first gives."""

    def shuffled(programs: int) -> Sequence[int]:
        return draw.sample(range(programs), programs)

    return {
        "ascending": Whole(range),
        "reversed": Whole(lambda programs: range(programs)[::-1]),
        "shuffled": Whole(shuffled),
        "woven": Woven(draw),
    }
