"""Processes of one gloo group that measure together, one thread each; none outlives its bound."""

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# what takes long to import is imported once, by the process that all others are forks of; it finds no file of these
PRELOADED = ["fastsaddle"]


def measured(work: Callable[..., Any], ranks: int, *arguments: Any, bound: float) -> list[Any]:
    """Call `work(*arguments)` in so many processes, all of one group; what it returned, by rank.

    Raises:
        RuntimeError: it raised on a rank, or was not done after `bound` seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        pipes: dict[Any, int] = {}
        processes = []
        for rank in range(ranks):
            here, there = context.Pipe(duplex=False)
            told = (there, rank, ranks, str(Path(folder) / "store"), work, arguments)
            processes.append(context.Process(target=take_part, args=told, daemon=True))
            processes[-1].start()
            there.close()
            pipes[here] = rank
        end = time.monotonic() + bound
        try:
            while pipes and (left := end - time.monotonic()) > 0:
                for pipe in wait([*pipes], left):
                    rank = pipes.pop(pipe)
                    value, failure = receive(pipe)
                    if failure:
                        raise RuntimeError(f"rank {rank} of {ranks}: {failure}")
                    found[rank] = value
        finally:
            for process in processes:
                process.join(1.0 if not pipes else 0.0)
                process.kill()
                process.join()
    if pipes:
        missing = ", ".join(map(str, sorted(pipes.values())))
        raise RuntimeError(f"ranks {missing} of {ranks} were not done after {bound:g} s")
    return [found[rank] for rank in range(ranks)]


def receive(pipe: Any) -> tuple[Any, str]:
    """What a rank has sent: its result, or how it failed."""
    try:
        return pipe.recv()
    except EOFError:
        return None, "ended without a word"


def take_part(
    pipe: Connection,
    rank: int,
    ranks: int,
    store: str,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """All that a process does."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        value = work(*arguments)
        # who is done first must not close connections that others read from
        dist.barrier()
        pipe.send((value, ""))
    except Exception:
        pipe.send((None, traceback.format_exc()))
