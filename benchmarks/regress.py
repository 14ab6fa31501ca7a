"""How much slower or faster the working tree is than a commit, op by op and step by step.

    python benchmarks/regress.py BASE [--only PATTERN] [--rounds N] [--threads N] [--quick]

BASE (HEAD, main, a commit) is checked out into a temporary folder and its library compiled; the working tree is taken
as it is, with the library that it has. Two processes, one of each, time every case by turns: ops on each backend that
runs here, a step of each optimizer (a copied gradient instead of a network), steps of the simulator. One thread is
measured in processor time, several by the clock. A ratio is the working tree's time over BASE's in one round; printed
are the median of all rounds and the quartiles around it. A case is marked where the median is beyond the bound, the
ratio of the two fastest rounds too (what else the machine does slows rounds down, and speeds none up), and three
quarters of the rounds agree, in a first measurement and in a second one alone, by two new processes (where the memory
of a process lies makes the same code up to a fifth faster or slower). The line then shows the rounds of both.

Exit status: 0, 1 where something is slower, 2 where nothing could be compared.
"""

import argparse
import fnmatch
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import machine
from peers_process import THREADS, EngineProcess
from regression.noise import write_noise
from regression.worktree import checked_out, commit_named, git

ROOT = Path(__file__).resolve().parents[1]
PROCESS = Path(__file__).resolve().parent / "regression" / "process.py"
PATIENCE = 300.0
# fresh memory for each call would be the kernel's time: freed memory is kept
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
QUICK = "16 x 100,000"
# names that an error lists
FEW = 5

Pair = tuple[EngineProcess, EngineProcess]


@dataclass(frozen=True)
class Comparison:
    """One case: seconds a call of BASE and of the working tree in each round."""

    name: str
    before: tuple[float, ...]
    now: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Of the rounds' ratios: the lower quartile, the median, the upper one."""
        ratios = [now / before for before, now in zip(self.before, self.now, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, middle, high

    def mark(self, bound: float) -> str:
        """slower or faster, where rounds agree that it is, by more than `bound`; else nothing."""
        low, middle, high = self.quartiles
        fastest = min(self.now) / min(self.before)
        if min(middle, fastest) > bound and low > 1:
            return "slower"
        return "faster" if max(middle, fastest) < 1 / bound and high < 1 else ""

    def with_rounds(self, other: "Comparison") -> "Comparison":
        """This case with the rounds of both."""
        return Comparison(self.name, self.before + other.before, self.now + other.now)

    def line(self, mark: str) -> str:
        """The case, the fastest round of each in milliseconds, the ratios, and the mark."""
        low, middle, high = self.quartiles
        before, now = (f"{1e3 * min(part):.4g}" for part in (self.before, self.now))
        return (
            f"{self.name:45} {before:>10} {now:>10} {middle:7.3f}  {low:.3f} to {high:.3f}  {mark}"
        ).rstrip()


def compare(name: str, base: EngineProcess, tree: EngineProcess, rounds: int) -> Comparison | str:
    """Time one case in both processes by turns; a text says why that cannot be."""
    built = [_asked(process, {"build": name}) for process in (base, tree)]
    for whose, answer in zip(("BASE", "the working tree"), built, strict=True):
        if "failure" in answer:
            return f"fails in {whose}: {answer['failure']}"
    calls = max(answer["calls"] for answer in built)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        # whoever comes second finds a warmer machine
        for side in (0, 1) if number % 2 else (1, 0):
            answer = _asked((base, tree)[side], {"time": calls})
            if "failure" in answer:
                return f"fails in {('BASE', 'the working tree')[side]}: {answer['failure']}"
            times[side].append(answer["seconds"])
    return Comparison(name, tuple(times[0]), tuple(times[1]))


def _asked(process: EngineProcess, question: dict[str, Any]) -> dict[str, Any]:
    answer = process.ask(json.dumps(question))
    if answer is None:
        raise OSError(f"a process {process.failure}")
    return answer


def chosen(names: list[str], only: str | None, quick: bool) -> list[str]:
    """The cases that a pattern asks for: a part of their name, or a pattern of the shell's."""
    pattern = f"*{only or ''}*"
    found = [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
    return [name for name in found if not (quick and name.endswith(QUICK))]


def check_chosen(names: list[str], only: str | None, quick: bool) -> None:
    """Raises ValueError, with a few names, where the pattern asks for none of the cases."""
    if not chosen(names, only, quick):
        possible = chosen(names, None, quick)
        few = "; ".join(possible[:: -(-len(possible) // FEW)])
        raise ValueError(
            f"no case{' of --quick' if quick else ''} matches {only!r}; some are: {few}"
        )


def run(options: argparse.Namespace, scratch: Path) -> int:
    """Check BASE out into `scratch`, compare, and print; the exit status."""
    commit = commit_named(ROOT, options.base)
    facts = machine.facts()
    noise = scratch / "noise.npz"
    write_noise(noise)
    environment = {**dict.fromkeys(THREADS, str(options.threads)), **KEPT_MEMORY}
    with ExitStack() as stack:

        def started(tree: Path, place: str) -> EngineProcess:
            arguments = [str(tree), str(noise), str(options.threads)]
            process = EngineProcess(str(PROCESS), arguments, scratch / place, PATIENCE, environment)
            stack.callback(process.end)
            if process.failure:
                raise OSError(f"the process of {tree} {process.failure}")
            return process

        now = started(ROOT, "now")
        # BASE may have to be compiled: not for a misspelt name
        check_chosen(now.ready["cases"], options.only, options.quick)
        folder = stack.enter_context(checked_out(ROOT, commit, scratch / "base"))
        base = started(folder, "before")
        reasons = base.ready["native"], now.ready["native"]
        if bool(reasons[0]) != bool(reasons[1]):
            whose = "BASE" if reasons[0] else "the working tree"
            raise ValueError(f"{whose} has no library to compare: {reasons[0] or reasons[1]}")
        clock = "processor time" if options.threads == 1 else "time by the clock"
        busy = ", more than it has cores" if facts["load"] > facts["cores"] else ""
        print(machine.line(facts, f"threads {options.threads}, {clock}") + busy)
        print(f"BASE {git(folder, 'log', '-1', '--format=%h %s')}\n")
        head = ("fastest, in milliseconds", "BASE", "now", "ratio", "quartiles")
        print(f"{head[0]:45} {head[1]:>10} {head[2]:>10} {head[3]:>7}  {head[4]}", flush=True)

        @cache
        def second() -> Pair:
            return started(folder, "before-again"), started(ROOT, "now-again")

        return table((base, now), second, options)


def table(first: Pair, second: Callable[[], Pair], options: argparse.Namespace) -> int:
    """Print a line for each case as it is measured, and the count of marks; the exit status.

    Each pair is a process of BASE and one of the working tree; `second` gives the one for second measurements.
    """
    before, here = (chosen(p.ready["cases"], options.only, options.quick) for p in first)
    marks = {"slower": 0, "faster": 0, "": 0}
    for name in here:
        if name not in before:
            print(f"{name:45} new", flush=True)
            continue
        found = compare(name, *first, options.rounds)
        mark = "" if isinstance(found, str) else found.mark(options.bound)
        if mark and isinstance(found, Comparison):
            again = compare(name, *second(), options.rounds)
            if isinstance(again, Comparison):
                # the rounds that raised the suspicion do not vote again
                mark = mark if again.mark(options.bound) == mark else ""
                found = found.with_rounds(again)
            else:
                found = again
        if isinstance(found, str):
            print(f"{name:45} {found}", flush=True)
        else:
            marks[mark] += 1
            print(found.line(mark), flush=True)
    for name in before:
        if name not in here:
            print(f"{name:45} gone")
    if not sum(marks.values()):
        print("\nnothing was compared")
        return 2
    print(f"\n{marks['slower']} slower, {marks['faster']} faster, {marks['']} as before")
    return 1 if marks["slower"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument(
        "--only", metavar="PATTERN", help="cases whose name holds this; * stands for any text"
    )
    parser.add_argument("--rounds", type=int, help="of each case; default: 15, --quick 5")
    parser.add_argument("--threads", type=int, default=1, help="of each process; default: 1")
    parser.add_argument("--bound", type=float, default=1.05, help="ratio to mark; default: 1.05")
    parser.add_argument("--quick", action="store_true", help=f"few rounds, and no cases of {QUICK}")
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.quick else 15)
    if options.rounds < 1 or options.threads < 1 or not options.bound > 1:
        parser.error("--rounds and --threads must be >= 1, --bound must be > 1")
    # ended from outside, it tidies up as after Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="fastsaddle-regress-"))
    try:
        return run(options, scratch)
    except (ValueError, OSError) as error:
        print(f"regress: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
