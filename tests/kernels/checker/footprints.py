"""Which bytes each program of a launch reads and writes, and what nothing orders.

Two programs that touch the same byte, one of them writing, conflict unless the first hands over to the second: it
meets all its threads at a barrier, releases by an atomic, and the second acquires by an atomic of the same place,
directly or by way of others. Within a program, threads conflict that touch the same byte without a barrier between,
unless both store the same. Which thread has a number is not known here: blocks of one shape are taken to have one
layout, so that equal places in them are one thread's. What was loaded by all threads may be stored by one, where the
program touches no block from then on: else a thread that is late loads the new number, and reckons with it. (A block
that was loaded before is not looked at.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.kernels.checker.hooks import ATOMIC, LOAD, STORE, Access, Launch

# bytes that are looked at one by one, of those that several share
MOST = 4096
# of findings of one kind in one launch
TOLD = 3
# where in a block a scalar stands: loaded by all threads, stored by one
BY_ALL, BY_ONE = -1, -2
NOBODY: Mapping[int, int] = {}


@dataclass(frozen=True, eq=False)
class Entry:
    """An access in its program: after how many barriers, and up to which barrier of whom others are known to be."""

    number: int
    program: int
    barriers: int
    known: Mapping[int, int]
    access: Access


@dataclass(frozen=True, eq=False)
class Touch:
    """One byte of an access."""

    entry: Entry
    lane: int
    value: bytes

    @property
    def writes(self) -> bool:
        return self.entry.access.kind != LOAD

    def agrees(self, other: "Touch") -> bool:
        """Whether both are stores of the same."""
        kinds = {self.entry.access.kind, other.entry.access.kind}
        return kinds == {STORE} and self.value == other.value


class Footprints:
    """Of one launch: hears its accesses and barriers, and tells what it found at the end."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.entries: list[Entry] = []
        self.barriers = [0] * launch.programs
        self.known: list[Mapping[int, int]] = [NOBODY] * launch.programs
        # address of an atomic -> what those who released there knew
        self.released: dict[int, Mapping[int, int]] = {}
        self.shapes: dict[tuple[int, ...], int] = {}
        # program -> its last access of a block
        self.last_block: dict[int, Entry] = {}

    def accessed(self, program: int, access: Access) -> None:
        if access.kind == ATOMIC:
            for address in access.addresses.tolist():
                if access.acquires:
                    heard = self.released.get(address, NOBODY)
                    self.known[program] = joined(self.known[program], heard)
                if access.releases:
                    mine = {**self.known[program], program: self.barriers[program]}
                    self.released[address] = joined(self.released.get(address, NOBODY), mine)
        entry = Entry(
            len(self.entries), program, self.barriers[program], self.known[program], access
        )
        self.entries.append(entry)
        if not is_scalar(access):
            self.last_block[program] = entry

    def barrier(self, program: int) -> None:
        self.barriers[program] += 1

    def findings(self) -> list[str]:
        """A line for each kind of what must not be, with examples."""
        entries = [entry for entry in self.entries if len(entry.access.addresses)]
        if not entries:
            return []
        counts = [len(entry.access.addresses) for entry in entries]
        number = np.repeat(np.arange(len(entries)), counts)
        place = np.concatenate([np.arange(count) for count in counts])
        address = np.concatenate([entry.access.addresses for entry in entries])
        lane = np.concatenate([self.lanes(entry.access) for entry in entries])
        size = np.array([entry.access.size for entry in entries])[number]
        found = self.outside(address, size)
        is_whole = are_apart(address, size)
        offset = np.zeros_like(address)
        if not is_whole:
            begin = np.cumsum(size) - size
            offset = np.arange(size.sum()) - np.repeat(begin, size)
            number, place, lane, address = (
                np.repeat(each, size) for each in (number, place, lane, address)
            )
            address = address + offset
        program = np.array([entry.program for entry in entries])[number]
        barriers = np.array([entry.barriers for entry in entries])[number]
        writes = np.array([entry.access.kind != LOAD for entry in entries])[number]

        def touches(chosen: np.ndarray) -> list[Touch]:
            """In the order of time."""
            told = []
            for k in chosen.tolist():
                entry, value = entries[number[k]], b""
                if entry.access.values is not None:
                    value = entry.access.values[place[k]].tobytes()
                    value = value if is_whole else value[offset[k] : offset[k] + 1]
                told.append(Touch(entry, int(lane[k]), value))
            return told

        for keys, who, look in (
            ((address,), program, self.between_programs),
            ((address, program, barriers), lane, self.within_program),
        ):
            groups = shared(keys, who, writes)
            if len(groups) > MOST:
                found.append(("more is shared than is looked at", f"{len(groups)} > {MOST}"))
            for group in groups[:MOST]:
                found += look(int(address[group[0]]), touches(group))
        return shortened(found)

    def lanes(self, access: Access) -> np.ndarray:
        """Numbers that are equal where one thread has the element."""
        if is_scalar(access):
            return np.full(len(access.places), BY_ALL if access.kind == LOAD else BY_ONE)
        shape = self.shapes.setdefault(access.shape, len(self.shapes))
        return access.places + (shape << 40)

    def named(self, address: int) -> str:
        """An address by the argument whose memory it is in."""
        for begin, end, name in self.launch.memory:
            if begin <= address < end:
                return f"byte {address - begin} of {name}"
        return "memory of no argument"

    def outside(self, address: np.ndarray, size: np.ndarray) -> list[tuple[str, str]]:
        begins = np.array([begin for begin, _, _ in self.launch.memory])
        ends = np.array([end for _, end, _ in self.launch.memory])
        at = np.searchsorted(begins, address, side="right") - 1
        wrong = (at < 0) | (address + size > ends[at])
        return [("touches memory of no argument", f"address {a}") for a in address[wrong].tolist()]

    def between_programs(self, address: int, touches: list[Touch]) -> list[tuple[str, str]]:
        found = []
        for n, later in enumerate(touches):
            for earlier in touches[:n]:
                if earlier.entry.program == later.entry.program:
                    continue
                if not (earlier.writes or later.writes) or is_ordered(earlier, later, touches):
                    continue
                who = f"programs {earlier.entry.program} and {later.entry.program}"
                kinds = f"{earlier.entry.access.kind} and {later.entry.access.kind}"
                found.append((f"conflict of programs, {kinds}", f"{self.named(address)} by {who}"))
        return found

    def within_program(self, address: int, touches: list[Touch]) -> list[tuple[str, str]]:
        found = []
        for n, later in enumerate(touches):
            for earlier in touches[:n]:
                if not (earlier.writes or later.writes) or earlier.agrees(later):
                    continue
                if ATOMIC in (earlier.entry.access.kind, later.entry.access.kind):
                    continue
                lanes = earlier.lane, later.lane
                if lanes[0] == lanes[1] != BY_ALL:
                    continue
                if lanes == (BY_ALL, BY_ONE) and not self.has_block_after(earlier.entry):
                    continue
                what = f"{self.named(address)} by program {later.entry.program}"
                kinds = f"{later.entry.access.kind} after {earlier.entry.access.kind}"
                found.append((f"no barrier between threads, {kinds}", what))
        return found

    def has_block_after(self, entry: Entry) -> bool:
        """Whether its program touches a block later on."""
        last = self.last_block.get(entry.program)
        return last is not None and last.number > entry.number


def is_scalar(access: Access) -> bool:
    return int(np.prod(access.shape)) == 1


def joined(a: Mapping[int, int], b: Mapping[int, int]) -> Mapping[int, int]:
    return {program: max(a.get(program, 0), b.get(program, 0)) for program in {*a, *b}}


def are_apart(address: np.ndarray, size: np.ndarray) -> bool:
    """Whether elements that overlap are the same, so that no byte need be looked at by itself."""
    order = np.argsort(address, kind="stable")
    address, size = address[order], size[order]
    gap = np.diff(address)
    return bool((((gap == 0) & (size[1:] == size[:-1])) | (gap >= size[:-1])).all())


def shared(keys: Sequence[np.ndarray], who: np.ndarray, writes: np.ndarray) -> list[np.ndarray]:
    """Groups with equal keys, in the order of time, in which `who` differs and somebody writes."""
    order = np.lexsort(keys[::-1])
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])
    begin = np.flatnonzero(is_new)
    who, writes = who[order], writes[order]
    several = np.minimum.reduceat(who, begin) != np.maximum.reduceat(who, begin)
    several &= np.logical_or.reduceat(writes, begin)
    end = np.append(begin[1:], len(order))
    return [order[begin[g] : end[g]] for g in np.flatnonzero(several)]


def is_ordered(earlier: Touch, later: Touch, touches: list[Touch]) -> bool:
    """Whether another program's touch comes first whatever runs when; `touches` are all of that byte."""
    a, b = earlier.entry, later.entry
    if b.known.get(a.program, 0) > a.barriers:
        return True
    if a.access.kind != ATOMIC or not a.access.is_shared:
        return False
    if b.access.kind == ATOMIC:
        return b.access.is_shared
    # atomics of one place are a chain: who acquired at its end comes after all of it
    between = touches[touches.index(earlier) + 1 : touches.index(later)]
    return any(t.entry.program == b.program and t.entry.access.acquires for t in between)


def shortened(found: list[tuple[str, str]]) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for kind, what in found:
        kinds.setdefault(kind, []).append(what)
    told = []
    for kind, whats in kinds.items():
        more = f" and {len(whats) - TOLD} more" if len(whats) > TOLD else ""
        told.append(f"{kind}: {'; '.join(whats[:TOLD])}{more}")
    return told
