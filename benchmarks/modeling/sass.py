"""What a warp does by the machine code: instructions by the unit that takes them, and how long it waits for loads.

Loops turn as often as those of the source that they came from: where the assembler unrolled one, it turns less often.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import triton

from benchmarks.modeling.triton_ir import Access, Loop, Source

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)\s*(.*?)\s*;")
# opcode -> the unit that takes it; others are logic and whole numbers
UNITS = (
    ("load/store", r"LD|ST(?!ACK)|ATOM|RED\b|REDG|SHFL|LDGSTS"),
    ("float64", r"D(?:ADD|MUL|FMA|SETP|MNMX)|.*\.F64"),
    ("special", r"MUFU|I2F|F2I|F2F|FRND|POPC|FLO|BREV"),
    ("float32", r"F(?:ADD|MUL|FMA|SWZADD)|IMAD|HFMA|HADD|HMUL|MOV"),
    ("tensor", r"[HIBDQ]MMA|HGMMA|UTC"),
)
# opcodes whose results come late, by where they come from
LATE = (("memory", "LDG"), ("memory", "ATOM"), ("shared", "LDS"), ("shared", "SHFL"))
GLOBAL = ("LDG", "STG", "ATOM")
# lines that the place of a load may be below its own
NEAR = 4


@dataclass
class Warp:
    """What one warp of a program does.

    Attributes:
        units: how many instructions each unit takes.
        rounds: how often it waits for what it loaded, by where the slowest of it comes from: "memory" is what this
            program is the first to read, "cache" is what was read before, "shared" is shared memory.
        barriers: how often it waits for the program's other warps.
        widths: bits of an instruction -> bytes that a thread moves with such, of blocks of rows.
    """

    units: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    barriers: float = 0
    widths: Counter[int] = field(default_factory=Counter)


@dataclass
class Step:
    """An instruction: opcode, operands, line of the source, and its label where it has one."""

    opcode: str
    operands: str
    line: int
    label: str


def disassembled(cubin: bytes) -> str:
    """The machine code with lines of the source, by the nvdisasm that Triton brings."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-c", "-g", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvdisasm must take the compiled kernel, got {done.stderr[-400:]!r}")
    return done.stdout


def steps(listing: str) -> Iterator[Step]:
    """Instructions of the kernel itself, without the subroutines behind it."""
    line, label = 0, ""
    for text in listing.splitlines():
        if position := re.match(r'\s*//## File ".*?", line (\d+)', text):
            line = int(position[1])
        elif mark := re.match(r"([.$][\w$.]+):", text):
            if mark[1].startswith("$"):
                return
            if mark[1].startswith(".L_"):
                label = mark[1]
        elif found := INSTRUCTION.search(text):
            yield Step(found[2], found[3], line, label)
            label = ""


def walk(listing: str, source: Source, threads: int, first_reads: Mapping[Access, bool]) -> Warp:
    """Follow one warp of a program.

    Args:
        listing: of `disassembled`.
        source: of the same kernel.
        threads: of a program.
        first_reads: which loads bring from memory what nobody read before.
    """
    code = list(steps(listing))
    origins = [accesses_of(step, source, threads) for step in code]
    times = repetitions(code, origins, source, threads)
    warp, pending = Warp(), dict[int, str]()
    for step, at, often in zip(code, origins, times, strict=True):
        if at and all(access.rare for access in at):
            continue
        used = registers(step.operands)
        late = next((place for place, name in LATE if step.opcode.startswith(name)), None)
        target = used[0] if late and used else None
        waited = {pending[r] for r in used if r in pending}
        if step.opcode.startswith("BAR"):
            warp.barriers += often
        for place in ("memory", "cache", "shared"):
            if place in waited:
                warp.rounds[place] += often
                # what comes sooner is there by then
                sooner = {"memory": ("memory", "cache", "shared"), "cache": ("cache", "shared")}
                gone = sooner.get(place, ("shared",))
                pending = {r: p for r, p in pending.items() if p not in gone}
                break
        warp.units[unit(step.opcode)] += often
        # where a place is not told, single numbers are those that are narrow
        wide = any(a.elements >= threads for a in at) if at else width(step.opcode) > 32
        if step.opcode.startswith(("LDG", "STG")) and wide:
            warp.widths[width(step.opcode)] += often * width(step.opcode) / 8
        if late and target is not None:
            if late == "memory" and at and not any(first_reads.get(a, False) for a in at):
                late = "cache"
            span = max(1, width(step.opcode) // 32)
            pending |= dict.fromkeys(range(target, target + span), late)
    return warp


def bits_of(access: Access, threads: int) -> float:
    """Bits that a thread moves with an access each time."""
    return max(access.bits, access.elements * access.bits / threads)


def accesses_of(step: Step, source: Source, threads: int) -> list[Access]:
    """The accesses of the source that a load or a store comes from; none of other instructions.

    They name the line of an access, or one a little below it where its value is used first. What moves fewer bits than
    they do is their origin only where nothing else is.
    """
    if not step.opcode.startswith(GLOBAL):
        return []
    stores = step.opcode.startswith("STG")
    alike = [a for a in source.accesses if a.stores == stores or step.opcode.startswith("ATOM")]
    alike = [a for a in alike if bits_of(a, threads) >= width(step.opcode)] or alike
    lines = [a.line for a in alike if step.line - NEAR <= a.line <= step.line]
    return [a for a in alike if a.line == max(lines)] if lines else []


def unit(opcode: str) -> str:
    return next((name for name, pattern in UNITS if re.match(pattern, opcode)), "integer")


def width(opcode: str) -> int:
    """Bits that a thread moves with a load or a store."""
    found = re.search(r"\.(?:U|S)?(8|16|64|128|256)\b", opcode)
    return int(found[1]) if found else 32


def registers(operands: str) -> list[int]:
    """Numbers of the registers that an instruction names, its target first."""
    return [int(n) for n in re.findall(r"(?<![\w])R(\d+)", operands)]


def repetitions(
    code: list[Step], origins: Sequence[list[Access]], source: Source, threads: int
) -> list[float]:
    """How often each instruction runs in a program; `origins` are the accesses that each comes from."""
    places = {step.label: place for place, step in enumerate(code) if step.label}
    # a branch back to a label closes a loop
    spans = []
    for place, step in enumerate(code):
        target = re.search(r"`\((\.L_\w+)\)", step.operands)
        if step.opcode.startswith("BRA") and target and places.get(target[1], place) < place:
            spans.append((places[target[1]], place))
    # several branches back to one label close one loop
    spans = sorted(
        {first: max(last for f, last in spans if f == first) for first, _ in spans}.items()
    )
    matched: dict[tuple[int, int], tuple[Loop | None, float]] = {}
    # the innermost first: a loop without accesses of its own is the one around its inner ones
    for span in sorted(spans, key=lambda s: s[1] - s[0]):
        inner = [s for s in matched if span[0] <= s[0] and s[1] <= span[1]]
        own = [
            (code[place], origins[place])
            for place in range(span[0], span[1] + 1)
            if not any(s[0] <= place <= s[1] for s in inner)
        ]
        taken = Counter(loop for loop, _ in matched.values() if loop is not None)
        loop, unrolled = origin(own, source, threads, taken)
        if loop is None:
            # of the widest of them: what lies inside that one has it around itself
            around = [m.outer for s in reversed(inner) if (m := matched[s][0]) is not None]
            loop = next((outer for outer in around if outer is not None), None)
        matched[span] = loop, unrolled
    times = [1.0] * len(code)
    left: dict[Loop, float] = {}
    # of an unrolled loop, what is left over is taken by another one: the one that was unrolled most comes first
    for span, (loop, unrolled) in sorted(matched.items(), key=lambda m: -m[1][1]):
        turns = 1.0
        if loop is not None:
            others = sum(m is loop for m, _ in matched.values())
            turns = left.setdefault(loop, loop.trips) / unrolled
            turns = float(int(turns)) if others > 1 and unrolled > 1 else turns
            left[loop] -= turns * unrolled
        for place in range(span[0], span[1] + 1):
            times[place] *= turns
    return times


def origin(
    own: list[tuple[Step, list[Access]]],
    source: Source,
    threads: int,
    taken: Mapping[Loop, int],
) -> tuple[Loop | None, float]:
    """The loop of the source that instructions come from, and how often it was unrolled.

    `taken` counts the loops of the machine code that were found to come from each.
    """
    loops: Counter[Loop] = Counter()
    for _, accesses in own:
        loops.update({a.loop for a in accesses if a.loop is not None})
    if not loops:
        return None, 1.0
    # where lines of several loops were mixed, the one of most accesses; lines that a loop has twice are two loops
    most = [loop for loop in source.loops if loops[loop] == max(loops.values())]
    loop = min(most, key=lambda loop: taken[loop])
    # all together: one access's instructions may name the line of the next one
    bits = sum(width(step.opcode) for step, accesses in own if accesses)
    each = sum(bits_of(a, threads) for a in source.accesses if a.loop is loop)
    return loop, max(1.0, float(round(bits / each)))
