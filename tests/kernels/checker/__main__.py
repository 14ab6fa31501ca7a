"""Checks all Triton kernels on the interpreter: `TRITON_INTERPRET=1 python -m tests.kernels.checker [--seed N] ...`."""

import argparse
import json
import random
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import torch

from tests.kernels.checker.cases import Case, cases
from tests.kernels.checker.controls import AGENTS, COLUMNS, RIGHT, SLICES, WRONG, Launch
from tests.kernels.checker.hooks import assert_hooks_hold, listening
from tests.kernels.checker.schedules import schedules
from tests.kernels.checker.watch import Watch


@dataclass
class Found:
    """What a check came to.

    Attributes:
        launches: by kind of check.
        accesses: memory operations that were seen, by kernel.
        programs: the most that one launch had, by kernel.
        sizes: that each op was launched at.
        faults: a line each.
        caught: of each control, the checks that told.
    """

    launches: Counter[str] = field(default_factory=Counter)
    accesses: Counter[str] = field(default_factory=Counter)
    programs: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    caught: dict[str, list[str]] = field(default_factory=dict)


def bits(value: torch.Tensor) -> torch.Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.contiguous().view(kinds[value.dtype.itemsize])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether all results have the same bits, one NaN being as good as another."""
    return all(bool(((bits(a[n]) == bits(b[n])) | (a[n].isnan() & b[n].isnan())).all()) for n in a)


def check(case: Case, draw: random.Random, found: Found) -> None:
    """One call in each order of programs, with footprints, on counters that the calls before have left."""
    what = f"{case.name}, {case.size}"
    found.sizes.setdefault(case.name.partition(",")[0], []).append(case.size)
    first: dict[str, torch.Tensor] = {}
    for kind, schedule in schedules(draw).items():
        watch = Watch(schedule)
        with listening(watch):
            got = case.call()
        found.launches[kind] += len(watch.launches)
        for launch in watch.launches:
            kernel = launch.launch.kernel
            found.accesses[kernel] += len(launch.entries)
            most = max(found.programs.get(kernel, 0), launch.launch.programs)
            found.programs[kernel] = most
            found.faults += [f"{what}: {kernel}, {kind}: {line}" for line in launch.findings()]
        if not sum(len(launch.entries) for launch in watch.launches):
            found.faults.append(f"{what}: nothing was launched, or seen")
        if not first:
            first = got
            wrong = [name for name, value in first.items() if not case.agrees(name, value)]
            found.faults += [f"{what}: {name} is not the reference's" for name in wrong]
        elif not same(first, got):
            found.faults.append(f"{what}: {kind} programs give other bits")


def caught_by(launch: Launch, x: torch.Tensor, draw: random.Random) -> list[str]:
    """The checks that tell of a control."""
    told: set[str] = set()
    first = None
    for kind, schedule in schedules(draw).items():
        watch = Watch(schedule)
        with listening(watch):
            got = launch(x)
        if any(seen.findings() for seen in watch.launches):
            told.add("footprints")
        if first is None:
            first = got
        elif not torch.equal(first, got):
            told.add(kind)
    return sorted(told)


def check_controls(draw: random.Random, found: Found) -> None:
    """Whether each kernel that is wrong on purpose is caught by what must see it, and no right one by anything."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    x = torch.randn(AGENTS, SLICES, COLUMNS, generator=generator)
    for name, (launch, must, cannot) in WRONG.items():
        told = found.caught[name] = caught_by(launch, x, draw)
        if not must <= {*told} or {*told} & cannot:
            found.faults.append(
                f"the control {name} must be caught by {sorted(must)} and not by {sorted(cannot)}, "
                f"was by {told}"
            )
    for name, launch in RIGHT.items():
        if told := caught_by(launch, x, draw):
            found.faults.append(f"the control {name}, which is right, was caught by {told}")


def table(found: Found, seconds: float) -> str:
    """What is printed for people."""
    lines = [f"{'op':24}{'sizes (agents x columns)'}"]
    for name, sizes in sorted(found.sizes.items()):
        lines.append(f"{name:24}{', '.join(dict.fromkeys(sizes))} ({len(sizes)} calls)")
    lines += ["", f"{'kernel':32}{'programs, at most':>18}{'memory operations seen':>24}"]
    lines += [
        f"{name:32}{found.programs[name]:18,}{count:24,}"
        for name, count in sorted(found.accesses.items())
    ]
    lines += ["", f"{'check':32}launches"]
    lines += [f"{kind:32}{count:,}" for kind, count in found.launches.items()]
    lines += ["", f"{'wrong on purpose':40}caught by"]
    lines += [f"{name:40}{', '.join(told) or 'nothing'}" for name, told in found.caught.items()]
    lines += ["", *found.faults, f"{len(found.faults)} faults, {seconds:.0f} s"]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=None, help="of all that is drawn (default: drawn)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="how often all cases are drawn anew")
    parser.add_argument(
        "--variants", type=int, default=None, help="examples of an op at a size (default: all)"
    )
    parser.add_argument("--only", default="", help="ops whose names hold this word")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    draw, found, begin = random.Random(seed), Found(), time.monotonic()
    torch.set_num_threads(1)
    # scratch that nobody wrote holds NaN
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert_hooks_hold()
    check_controls(draw, found)
    for round_ in range(options.rounds):
        for case in cases(seed + 1_000_003 * round_, options.variants):
            if options.only in case.name:
                check(case, draw, found)
    if options.json:
        print(json.dumps({"seed": seed, **vars(found)}))
    else:
        print(f"seed {seed}\n{table(found, time.monotonic() - begin)}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
