"""Carries out a campaign in a few processes side by side, and adds up what they count."""

import multiprocessing
import random
import shutil
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.campaigns.campaign import Campaign, Counts

# is told what one attempt came to, and all of them together
Say = Callable[[Counts, Counts], None]


def carry_out(
    campaign: Campaign,
    seed: int,
    count: int,
    place: Path,
    *,
    first: int = 0,
    jobs: int = 2,
    minutes: float = 9.5,
    say: Say = lambda counts, total: None,
) -> Counts:
    """Make attempts `first`, `first + 1`, ... until so many of the campaign's units have been tried.

    Each attempt draws from the seed and its own number, so that it can be made again by itself; `say` hears of each.
    None begins when the minutes are over: `tried` is then less than `count`.

    Raises RuntimeError where an attempt itself fails, which no finding does.
    """
    shared = place / "prepared"
    shared.mkdir(parents=True)
    prepared = campaign.prepare(shared)
    deadline = time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("fork")
    jobs = min(jobs, count)
    shares = [count // jobs + (k < count % jobs) for k in range(jobs)]
    total = Counts()
    pipes: list[Connection] = []
    processes = []
    for k, share in enumerate(shares):
        here, there = context.Pipe(duplex=False)

        def work(there: Connection = there, k: int = k, share: int = share) -> None:
            number, tried = first + k, 0
            try:
                while tried < share and time.monotonic() < deadline:
                    counts = attempt(campaign, seed, number, place, prepared)
                    there.send(counts)
                    tried += counts.tried
                    number += jobs
            except BaseException:
                there.send(traceback.format_exc())

        processes.append(context.Process(target=work))
        processes[-1].start()
        there.close()
        pipes.append(here)
    failed = ""
    while pipes:
        for pipe in wait(pipes):
            assert isinstance(pipe, Connection)
            try:
                heard = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                continue
            if isinstance(heard, str):
                failed += heard
            else:
                total.add(heard)
                say(heard, total)
    for process in processes:
        process.join()
    if failed or any(process.exitcode for process in processes):
        raise RuntimeError(f"an attempt could not be made:\n{failed}")
    return total


def attempt(campaign: Campaign, seed: int, number: int, place: Path, prepared: object) -> Counts:
    """One attempt in a folder of its own, which is kept where something was found."""
    folder = place / str(number)
    folder.mkdir()
    counts = campaign.attempt(random.Random(f"{seed} {number}"), folder, prepared)
    for found in (counts.losses, counts.hangs, counts.tracebacks):
        found[:] = [f"attempt {number}: {text}" for text in found]
    if not counts.findings:
        shutil.rmtree(folder)
    return counts
