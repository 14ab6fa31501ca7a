"""Which bytes each program of a launch reads and writes, and what of that is not ordered.

Two accesses to a byte, one of them a store, conflict

* between programs, unless an atomic operation hands over: the first program's comes behind a barrier that comes behind
  its access, and the second program's, on the same number, comes before its own;
* within a program, where other threads make them and no barrier lies between. A thread is told by its place in a block:
  blocks of equal shapes are taken to be laid out alike.

Epochs count the barriers of a program; clocks say up to which epoch of another one a program has been handed over.
"""

from collections.abc import Sequence

import numpy as np

from tests.kernels.checker.hooks import Program, Run

PAGE = 4096
NOBODY = -1
# of a byte: who wrote it last, in which epoch, at which place in a block of which shape; its last two readers
FIELDS = (
    *("writer", "written", "writer_place", "writer_shape"),
    *("reader", "read", "reader_place", "reader_shape", "other", "other_read"),
)


class Footprints:
    """Runs programs in ascending order and notes conflicts.

    Attributes:
        conflicts: a line each.
        accesses: how many were seen, by kernel.
    """

    def __init__(self) -> None:
        self.conflicts: set[str] = set()
        self.accesses: dict[str, int] = {}
        self.launches = 0

    def launch(self, kernel: str, programs: Sequence[Program], run: Run) -> None:
        self._kernel, self._shapes = kernel, {}
        self._pages: dict[int, dict[str, np.ndarray]] = {}
        count = len(programs)
        self._epochs = np.ones(count, dtype=np.int64)
        self._clocks = np.zeros((count, count), dtype=np.int64)
        # what was released by atomic operations on a number, by its address
        self._released: dict[int, np.ndarray] = {}
        self.launches += 1
        for number, program in enumerate(programs):
            self._program = number
            run(program)

    def barrier(self) -> None:
        self._epochs[self._program] += 1

    def access(
        self,
        kind: str,
        addresses: np.ndarray,
        positions: np.ndarray,
        shape: tuple[int, ...],
        size: int,
    ) -> None:
        self.accesses[self._kernel] = self.accesses.get(self._kernel, 0) + 1
        if not addresses.size:
            return
        number = self._shapes.setdefault(shape, len(self._shapes))
        if kind == "atomic":
            self._hand_over(addresses)
        spread = (addresses[:, None] + np.arange(size)).ravel()
        places = np.repeat(positions, size)
        # epochs that a later program may have been handed over
        now = int(self._epochs[self._program])
        stamp = now - 1 if kind == "atomic" else now
        for page in np.unique(spread // PAGE):
            chosen = spread // PAGE == page
            at, place = spread[chosen] % PAGE, places[chosen]
            held = self._page(int(page))
            self._check(kind, held, at, place, number)
            if kind == "store":
                written = (self._program, stamp, place, number)
                for name, value in zip(FIELDS[:4], written, strict=True):
                    held[name][at] = value
                continue
            # the last but one stays known
            changes = at[held["reader"][at] != self._program]
            held["other"][changes] = held["reader"][changes]
            held["other_read"][changes] = held["read"][changes]
            for name, value in zip(FIELDS[4:8], (self._program, stamp, place, number), strict=True):
                held[name][at] = value

    def _page(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._pages:
            self._pages[number] = {name: np.full(PAGE, NOBODY, np.int64) for name in FIELDS}
        return self._pages[number]

    def _hand_over(self, addresses: np.ndarray) -> None:
        """The program learns what was released on these numbers, and releases what lies behind a barrier."""
        mine = self._clocks[self._program]
        for address in map(int, addresses):
            np.maximum(mine, self._released.get(address, 0), out=mine)
        mine[self._program] = self._epochs[self._program] - 1
        for address in map(int, addresses):
            self._released[address] = np.maximum(self._released.get(address, 0), mine)

    def _check(
        self, kind: str, held: dict[str, np.ndarray], at: np.ndarray, place: np.ndarray, shape: int
    ) -> None:
        self._between(kind, "a store", held["writer"][at], held["written"][at])
        if kind != "atomic":
            self._within(kind, "store", held, "writer", "written", at, place, shape)
        if kind == "store":
            self._between(kind, "a load", held["reader"][at], held["read"][at])
            self._between(kind, "a load", held["other"][at], held["other_read"][at])
            self._within(kind, "load", held, "reader", "read", at, place, shape)

    def _between(self, kind: str, before: str, who: np.ndarray, when: np.ndarray) -> None:
        others = (who != NOBODY) & (who != self._program)
        if not others.any():
            return
        if (when[others] > self._clocks[self._program][who[others]]).any():
            self.conflicts.add(f"{self._kernel}: {kind} and {before} of another program")

    def _within(
        self,
        kind: str,
        before: str,
        held: dict[str, np.ndarray],
        who: str,
        when: str,
        at: np.ndarray,
        place: np.ndarray,
        shape: int,
    ) -> None:
        now = self._epochs[self._program]
        recent = (held[who][at] == self._program) & (held[when][at] == now)
        elsewhere = (held[f"{who}_place"][at] != place) | (held[f"{who}_shape"][at] != shape)
        if (recent & elsewhere).any():
            self.conflicts.add(f"{self._kernel}: {kind} after a {before} without a barrier")
