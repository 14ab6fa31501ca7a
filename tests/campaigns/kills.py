"""SIGKILL at random moments: a run that goes on after kills ends with the bytes of one that was left alone.

`train` is killed in forked children, at any time of its life, its start included, or just when it writes a file. One
attempt in ten kills `compare`, a real process with workers, or one of its workers.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.campaigns import forked
from tests.campaigns.campaign import Campaign, Counts, Draw
from tests.campaigns.forked import Ended

ROOT = Path(__file__).parents[2]
# kills of one run, which is then left alone
MOST = 6
# of one comparison, whose processes all start anew
MOST_OF_COMPARISON = 3
COMPARES = 10
PATIENCE = 120.0
METHODS = (
    *("dsgd", "dsgdm", "qgm", "qsaddle", "dsaddle", "ngm", "nsaddle", "gradient-tracking"),
    *("momentum-tracking", "d2", "gut", "qg-adam", "relay-sgd", "local-sgd", "easgd", "dppf"),
)
COMPRESSED = ("dsgd", "qgm", "qsaddle", "ngm", "gradient-tracking", "d2", "qg-adam")
COMPRESSORS = ("stochastic-quantizer:8", "top-k:0.3", "random-k:0.3", "sign")


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    if draw.randrange(COMPARES) == 0:
        return compares(draw, place)
    return trainings(draw, place)


def small_run(draw: Draw) -> list[str]:
    """Options of a run that takes about a second."""
    method = draw.choice(METHODS)
    options = {
        "algorithm": method,
        "agents": draw.randint(3, 6),
        "model": "mlp:8",
        "batch-size": 8,
        "steps": draw.randint(80, 300),
        "lr": 0.05,
        "seed": draw.randrange(1000),
        "eval-every": draw.randint(7, 60),
        "checkpoint-every": draw.randint(2, 15),
        "schedule": draw.choice(["constant", "cosine", "step"]),
        "threads": 1,
    }
    if method == "relay-sgd":
        options["topology"] = "chain"
    if method in COMPRESSED and draw.random() < 0.5:
        options |= {"compressor": draw.choice(COMPRESSORS), "consensus-step": 0.3}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def trainings(draw: Draw, place: Path) -> Counts:
    """One run of `train`, killed several times."""
    counts = Counts()
    options = small_run(draw)
    whole, run = place / "whole", place / "run"
    begin = time.monotonic()
    calm = forked.call(forked.command("train", *options, "--out", str(whole)), place, PATIENCE)
    length = time.monotonic() - begin
    if calm.status != 0:
        counts.losses.append(f"{options} alone: {calm.last}")
        return counts
    while True:
        # as users do: without config.json there is nothing to go on with yet
        begun = (run / "config.json").exists()
        arguments = ["--resume", str(run)] if begun else [*options, "--out", str(run)]
        is_due = moment(draw, run, length) if counts.tried < MOST else lambda: False
        ended = forked.call(forked.command("train", *arguments), place, PATIENCE, is_due)
        if not ended.killed:
            break
        counts.tried += 1
        counts.ended["train killed"] += 1
    judge(ended, counts, options)
    if not counts.findings and (differing := unlike(whole, run)):
        counts.losses.append(f"{options} after {counts.tried} kills: other {differing}")
    return counts


def moment(draw: Draw, run: Path, length: float) -> Callable[[], bool]:
    """When a run of so many seconds is killed: at any time, or shortly after it has begun to write some file."""
    if draw.random() < 0.5:
        due = time.monotonic() + draw.uniform(0, length)
        return lambda: time.monotonic() > due
    # sometimes the first files, as often those of the middle or the end
    wanted, delay = int(60 ** draw.random()), draw.expovariate(1000)
    seen: set[tuple[str, float]] = set(files(run))

    def is_written() -> bool:
        seen.update(files(run))
        if len(seen) - before < wanted:
            return False
        time.sleep(delay)
        return True

    before = len(seen)
    return is_written


def files(run: Path) -> list[tuple[str, float]]:
    """The files of a folder as they are now, those half written included."""
    found = []
    if run.is_dir():
        with os.scandir(run) as entries:
            for entry in entries:
                try:
                    found.append((entry.name, entry.stat().st_mtime))
                except FileNotFoundError:
                    # renamed meanwhile
                    continue
    return found


def judge(ended: Ended, counts: Counts, what: object) -> None:
    """Count how a command ended that nobody killed."""
    if ended.hung:
        counts.hangs.append(f"{what}: {ended.last}")
    elif ended.has_traceback:
        counts.tracebacks.append(f"{what}: {ended.last}")
    elif ended.status != 0:
        counts.losses.append(f"{what}: status {ended.status}, {ended.last}")


def unlike(one: Path, other: Path) -> list[str]:
    """Files of a run that are not the same in another, apart from seconds."""
    first, second = content(one), content(other)
    return sorted(n for n in {*first, *second} if first.get(n) != second.get(n))


def content(run: Path) -> dict[str, Any]:
    """All files by name; metrics without what depends on time, pictures by their presence alone."""
    found: dict[str, Any] = {}
    for path in run.iterdir():
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [
                {name: value for name, value in row.items() if "seconds" not in name}
                for row in rows
            ]
        else:
            found[path.name] = True if path.suffix == ".png" else path.read_bytes()
    return found


def compares(draw: Draw, place: Path) -> Counts:
    """One `compare` of four runs, killed several times, with its workers or without."""
    counts = Counts()
    methods = draw.sample(METHODS[:8], 2)
    options = [
        *("--algorithm", *methods, "--seed", "0", "1", "--agents", "4", "--model", "mlp:8"),
        *("--steps", str(draw.randint(60, 150)), "--batch-size", "8", "--lr", "0.05"),
        *("--checkpoint-every", str(draw.randint(2, 15)), "--jobs", "2"),
    ]
    whole, grid = place / "whole", place / "grid"
    begin = time.monotonic()
    calm = compare(options, whole, place, lambda parent: False)
    length = time.monotonic() - begin
    if calm.status != 0:
        counts.losses.append(f"compare {options} alone: {calm.last}")
        return counts
    while True:
        due = time.monotonic() + draw.uniform(0, 1.1 * length)
        of_worker = draw.random() < 0.3
        sent = False

        def kill(parent: int, due: float = due, of_worker: bool = of_worker) -> bool:
            nonlocal sent
            if sent or counts.tried >= MOST_OF_COMPARISON or time.monotonic() < due:
                return False
            victims = children(parent) if of_worker else [parent]
            if victims:
                sent = True
                os.kill(draw.choice(victims), signal.SIGKILL)
            return not of_worker

        ended = compare(options, grid, place, kill)
        if not sent:
            break
        counts.tried += 1
        counts.ended["worker killed" if of_worker else "compare killed"] += 1
        is_told = ended.status == 1 and len(ended.err.strip().splitlines()) == 1
        if ended.hung or (not ended.killed and not (of_worker and (is_told or ended.status == 0))):
            judge(ended, counts, f"compare {options} after a kill")
            return counts
    judge(ended, counts, f"compare {options} after {counts.tried} kills")
    cells = sorted(path.name for path in (whole / "cells").iterdir())
    if not counts.findings:
        for cell in cells:
            if differing := unlike(whole / "cells" / cell, grid / "cells" / cell):
                counts.losses.append(f"compare {options}, {cell}: other {differing}")
        if names(whole) != names(grid):
            counts.losses.append(f"compare {options}: {names(grid)} for {names(whole)}")
    return counts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def children(process: int) -> list[int]:
    """The workers of a comparison; its resource tracker comes first."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found[1:]]


def compare(options: list[str], out: Path, place: Path, kill: Callable[[int], bool]) -> Ended:
    """One sitting of a comparison in processes of its own, of which none may be left at the end."""
    program = [sys.executable, "-m", "fastsaddle", "compare", *options, "--out", str(out)]
    texts = place / "stdout", place / "stderr"
    with texts[0].open("w") as stdout, texts[1].open("w") as stderr:
        process = subprocess.Popen(
            program, cwd=ROOT, stdout=stdout, stderr=stderr, start_new_session=True
        )
        deadline = time.monotonic() + PATIENCE
        killed = False
        while process.poll() is None and time.monotonic() < deadline:
            killed = kill(process.pid) or killed
            time.sleep(0.005)
        while is_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
            process.poll()
    hung = is_alive(process.pid)
    if hung:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    out_text, err_text = (text.read_text() for text in texts)
    return Ended(process.returncode, out_text, err_text, killed=killed, hung=hung)


def is_alive(group: int) -> bool:
    """Whether a group has a process that still runs."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, found = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(found) == group and state != "Z":
                return True
    return False


campaign = Campaign("kills", 200, attempt, forked.warm_up)
