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
from tests.kernels.checker.controls import AGENTS, COLUMNS, CONTROLS, SLICES
from tests.kernels.checker.footprints import Footprints
from tests.kernels.checker.hooks import Watcher, watched
from tests.kernels.checker.orders import Woven, reversed_order, shuffled


@dataclass
class Found:
    """What a check came to.

    Attributes:
        launches: by kind of check.
        accesses: memory operations that were seen, by kernel.
        sizes: that each op was launched at.
        faults: a line each.
        caught: of each control, the checks that told.
    """

    launches: Counter[str] = field(default_factory=Counter)
    accesses: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    caught: dict[str, list[str]] = field(default_factory=dict)


def orders(draw: random.Random) -> dict[str, Watcher]:
    return {"reversed": reversed_order(), "shuffled": shuffled(draw), "woven": Woven(draw)}


def bits(value: torch.Tensor) -> torch.Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.contiguous().view(kinds[value.dtype.itemsize])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether all results have the same bits, one NaN being as good as another."""
    return all(bool(((bits(a[n]) == bits(b[n])) | (a[n].isnan() & b[n].isnan())).all()) for n in a)


def check(case: Case, draw: random.Random, found: Found) -> None:
    """One call in ascending order with footprints, twice, and in each other order."""
    what = f"{case.name}, {case.size}"
    footprints = Footprints()
    with watched(footprints):
        first, again = case.call(), case.call()
    found.launches["footprints"] += footprints.launches
    found.accesses.update(footprints.accesses)
    found.sizes.setdefault(case.name.partition(",")[0], []).append(case.size)
    found.faults += [f"{what}: {conflict}" for conflict in sorted(footprints.conflicts)]
    if not footprints.launches or not sum(footprints.accesses.values()):
        found.faults.append(f"{what}: nothing was launched, or seen")
    wrong = [name for name, value in first.items() if not case.agrees(name, value)]
    found.faults += [f"{what}: {name} is not the reference's" for name in wrong]
    if not same(first, again):
        found.faults.append(f"{what}: a second launch gives other bits")
    for kind, watcher in orders(draw).items():
        with watched(watcher):
            got = case.call()
        found.launches[kind] += watcher.launches
        if not same(first, got):
            found.faults.append(f"{what}: {kind} programs give other bits")


def check_controls(seed: int, found: Found) -> None:
    """Whether each kernel that is wrong on purpose is caught, and by what."""
    x = torch.randn(AGENTS, SLICES * COLUMNS, generator=torch.Generator().manual_seed(seed))
    for name, launch in CONTROLS.items():
        footprints = Footprints()
        with watched(footprints):
            first, again = launch(x), launch(x)
        told = ["footprints"] * bool(footprints.conflicts)
        told += ["a second launch"] * (not torch.equal(first, again))
        for kind, watcher in orders(random.Random(seed)).items():
            with watched(watcher):
                told += [kind] * (not torch.equal(launch(x), first))
        found.caught[name] = told


def table(found: Found, seconds: float) -> str:
    """What is printed for people."""
    lines = [f"{'op':24}{'sizes (agents x columns)'}"]
    for name, sizes in sorted(found.sizes.items()):
        lines.append(f"{name:24}{', '.join(dict.fromkeys(sizes))} ({len(sizes)} calls)")
    lines += ["", f"{'kernel':32}memory operations seen"]
    lines += [f"{name:32}{count:,}" for name, count in sorted(found.accesses.items())]
    lines += ["", f"{'check':32}launches"]
    lines += [f"{kind:32}{count:,}" for kind, count in found.launches.items()]
    lines += ["", f"{'wrong on purpose':32}caught by"]
    lines += [f"{name:32}{', '.join(told) or 'nothing'}" for name, told in found.caught.items()]
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
    check_controls(seed, found)
    for round_ in range(options.rounds):
        for case in cases(seed + 1_000_003 * round_, options.variants):
            if options.only in case.name:
                check(case, draw, found)
    if options.json:
        print(json.dumps({"seed": seed, **vars(found)}))
    else:
        print(f"seed {seed}\n{table(found, time.monotonic() - begin)}")
    caught = all(found.caught.values())
    return 0 if caught and not found.faults else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
