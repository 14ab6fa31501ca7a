"""What a launch does by Triton's own listing: how often its loops turn, and what each access moves of which buffer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

BITS = {"f64": 64, "i64": 64, "f32": 32, "i32": 32, "f16": 16, "bf16": 16, "i16": 16, "i8": 8}
# operations that pass a pointer on
POINTERS = ("tt.addptr", "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.bitcast", "tt.reshape")
FOR = re.compile(r"scf\.for %(\S+) = %(\S+) to %(\S+) step %(\S+)")
# an address: of one number, or of a block of them
ADDRESS = re.compile(r"(?:tensor<((?:\d+x)+))?!tt\.ptr<(\w+)>")


@dataclass(eq=False)
class Loop:
    """A loop of the source.

    Attributes:
        outer: the one around it.
        trips: how often it turns each time; once where that depends on what is loaded.
    """

    outer: "Loop | None"
    trips: int

    def times(self) -> int:
        """How often its body runs in a program."""
        return self.trips * (self.outer.times() if self.outer else 1)


@dataclass(eq=False)
class Access:
    """A load, a store or an atomic operation of the source.

    Attributes:
        line: of the source. buffer: the argument that it starts from, "" where that is not told.
        elements: numbers that a program moves with it each time; bits: of a number.
        stores: whether it writes. loop: the innermost one around it.
        rare: whether one program of many does it: whoever was the last to add to a counter.
        leaves: whether it asks L2 to give up first what it moved.
    """

    line: int
    buffer: str
    elements: int
    bits: int
    stores: bool
    loop: Loop | None
    rare: bool
    leaves: bool = False

    def moved(self) -> float:
        """Bytes that a program moves with it."""
        times = self.loop.times() if self.loop else 1
        return 0 if self.rare else times * self.elements * self.bits / 8


@dataclass
class Source:
    """All loops and accesses of a kernel, in order."""

    loops: list[Loop] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)


def read(
    listing: str,
    arguments: Mapping[str, Any],
    programs: int,
    contents: Mapping[str, Sequence[int]] | None = None,
) -> Source:
    """Read a kernel's `ttir`.

    Args:
        listing: Triton's IR with positions in the source.
        arguments: of the launch, by name; numbers among them are bounds of loops.
        programs: of the launch.
        contents: the first numbers in buffers whose numbers are bounds of loops, by the argument's name.
    """
    contents = contents or {}
    lines = lines_of(listing)
    known: dict[str, float] = {n: v for n, v in arguments.items() if isinstance(v, (int, bool))}
    bases = {name: name for name in arguments}
    # of pointers to single numbers, from the argument they start from
    offsets: dict[str, float] = dict.fromkeys(arguments, 0)
    # values that tell whether a program was the last
    counted: set[str] = set()
    # braces that are open: the loop around, and whether what they hold is rare
    open_braces: list[tuple[Loop | None, bool]] = [(None, False)]
    source = Source()
    for text in listing.splitlines():
        line = text.strip()
        loop, rare = open_braces[-1]
        if line.startswith("}"):
            open_braces.pop()
            loop, rare = open_braces[-1] if open_braces else (None, False)
        result = re.match(r"%([\w.]+)(?::\d+)? = ", line)
        name = result[1] if result else ""
        words = line[result.end() :] if result else line
        operands = re.findall(r"%([\w.#]+)", words)
        if found := FOR.search(line):
            index, first, last, step = found.groups()
            known[index] = known.get(first, 0)
            loop = Loop(loop, trips(known, first, last, step))
            source.loops.append(loop)
            for held, start in re.findall(r"%([\w.]+) = %([\w.#]+)(?=[,)])", words):
                bases[held] = bases.get(start, "")
        elif words.startswith("scf.if") and operands[0] in counted:
            rare = True
        elif re.match(r"tt\.(?:load|store|atomic)", words):
            if at := ADDRESS.search(words):
                elements = prod(int(n) for n in (at[1] or "").split("x") if n)
                stores = not words.startswith("tt.load")
                where = re.search(r"loc\((#loc\d*)\)$", line)
                number = lines.get(where[1], 0) if where else 0
                base = bases.get(operands[0], "")
                bits = BITS.get(at[2], 32)
                leaves = re.search(r"evictionPolicy = 2|evict_first", words) is not None
                source.accesses.append(
                    Access(number, base, elements, bits, stores, loop, rare, leaves)
                )
                held = contents.get(base, ())
                offset = offsets.get(operands[0])
                if at[1] is None and offset is not None and offset < len(held) and not stores:
                    known[name] = held[int(offset)]
            if words.startswith("tt.atomic"):
                counted.add(name)
        elif name:
            if words.startswith(POINTERS):
                bases[name] = bases.get(operands[0], "")
            if words.startswith("tt.addptr") and operands[0] in offsets and operands[1] in known:
                offsets[name] = offsets[operands[0]] + known[operands[1]]
            if counted & {*operands}:
                counted.add(name)
            value = evaluated(words, operands, known, programs)
            if value is not None:
                known[name] = value
        if line.endswith("{") or re.search(r"\{ loc\(#loc\d*\)$", line):
            open_braces.append((loop, rare))
    return source


def lines_of(listing: str) -> dict[str, int]:
    """Lines of the source by the names of positions; of an inlined call, those inside it."""
    names = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", listing, re.MULTILINE))

    def line(name: str) -> int:
        if position := re.match(r'".*":(\d+):\d+', names[name]):
            return int(position[1])
        inner = re.search(r"#loc\d*", names[name])
        return line(inner[0]) if inner else 0

    return {name: line(name) for name in names}


def trips(known: Mapping[str, float], first: str, last: str, step: str) -> int:
    """How often a loop from `first` to `last` turns."""
    if first not in known or last not in known or not known.get(step):
        return 1
    return max(0, int(-(-(known[last] - known[first]) // known[step])))


def evaluated(
    words: str, operands: list[str], known: Mapping[str, float], programs: int
) -> float | None:
    """The value of an integer operation, in a launch's first program; None where it is not known."""
    if constant := re.match(r"arith\.constant (-?\d+) : i\d+", words):
        return int(constant[1])
    if words.startswith("tt.get_program_id"):
        return 0
    if words.startswith("tt.get_num_programs"):
        return programs
    operation = re.match(r"arith\.(\w+)", words)
    if operation is None or "tensor<" in words or not all(n in known for n in operands):
        return None
    values = [known[n] for n in operands]
    match operation[1], values:
        case (("extsi" | "extui" | "trunci"), [value]):
            return value
        case "addi", [a, b]:
            return a + b
        case "subi", [a, b]:
            return a - b
        case "muli", [a, b]:
            return a * b
        case "shrsi", [a, b]:
            return int(a) >> int(b)
        case "shli", [a, b]:
            return int(a) << int(b)
        case (("divsi" | "divui"), [a, b]) if b:
            return a // b
        case "ceildivsi", [a, b] if b:
            return -(-a // b)
        case (("remsi" | "remui"), [a, b]) if b:
            return a % b
        case (("minsi" | "minui"), [a, b]):
            return min(a, b)
        case (("maxsi" | "maxui"), [a, b]):
            return max(a, b)
    return None
