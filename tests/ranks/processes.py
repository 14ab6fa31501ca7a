"""Work in real processes over gloo: forks of one process that has imported everything, which outlives them all."""

from __future__ import annotations

import atexit
import importlib
import multiprocessing as mp
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# a store that is gone is told by a stack in C++ otherwise
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
import torch.distributed as dist

# what takes long to import
PRELOADED = ["tests.ranks.processes", "tests.ranks.work"]
# of gloo's own, above every bound here
PATIENCE = timedelta(seconds=120)


@dataclass
class Ended:
    """How one rank came to its end.

    Attributes:
        value: what its work returned.
        error: what it raised.
        at: when that was, by the clock that all processes share.
        fault: when it failed on purpose; None where it did not.
        hung: whether it had to be ended here, its time being over.
    """

    value: Any = None
    error: BaseException | None = None
    at: float = 0.0
    fault: float | None = None
    hung: bool = False


class Place:
    """What a rank's work is given.

    Attributes:
        rank, ranks: who it is, and of how many.
    """

    def __init__(self, rank: int, ranks: int, pipe: Connection) -> None:
        self.rank, self.ranks, self._pipe = rank, ranks, pipe

    def fail(self, how: int | None = None) -> None:
        """Say that this rank fails on purpose now, and get the signal `how`, where one is given."""
        self._pipe.send_bytes(pickle.dumps(Ended(fault=time.monotonic())))
        if how is not None:
            os.kill(os.getpid(), how)


Work = Callable[..., Any]


def run(
    work: Work,
    ranks: int,
    folder: Path,
    *arguments: Any,
    bound: float = 20.0,
    served: bool = False,
    stays: float = 0.0,
) -> list[Ended]:
    """Call `work(place, *arguments)` in so many processes, all of one gloo group; how they ended, by rank.

    Args:
        work: a function of a module.
        ranks: how many processes.
        folder: an empty one.
        arguments: more of its arguments.
        bound: seconds, after which all that are left are killed. Those that were stopped are when all others are done.
        served: whether rank 0 serves the store, or nobody does.
        stays: seconds that a process lives on after its work, as one that does something else does.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = free_port() if served else 0
    pipes, processes = [], []
    for rank in range(ranks):
        here, there = context.Pipe(duplex=False)
        told = (work.__module__, work.__qualname__, rank, ranks, str(folder), port, stays)
        process = context.Process(target=take_part, args=(there, told, arguments), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    found = [Ended() for _ in range(ranks)]
    open_pipes = dict(zip(pipes, range(ranks), strict=True))
    end = time.monotonic() + bound
    try:
        while open_pipes and time.monotonic() < end:
            for pipe in wait([*open_pipes], timeout=0.05):
                try:
                    ended = pickle.loads(pipe.recv_bytes())
                except (EOFError, OSError):
                    del open_pipes[pipe]
                    continue
                ended.fault = ended.fault or found[open_pipes[pipe]].fault
                found[open_pipes[pipe]] = ended
                if ended.at:
                    del open_pipes[pipe]
            # one that was stopped says no more
            if all(found[rank].fault for rank in open_pipes.values()) and all(
                not processes[rank].is_alive() or is_stopped(processes[rank].pid)
                for rank in open_pipes.values()
            ):
                break
        for rank in open_pipes.values():
            found[rank].hung = found[rank].fault is None
    finally:
        for rank in open_pipes.values():
            processes[rank].kill()
        # the others may still have something to do at their end
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
    return found


def take_part(
    pipe: Connection, told: tuple[str, str, int, int, str, int, float], arguments: tuple[Any, ...]
) -> None:
    """All that a process does."""
    module, name, rank, ranks, folder, port, stays = told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if port:
        store: Any = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, PATIENCE)
    else:
        store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    work = getattr(importlib.import_module(module), name)
    try:
        ended = Ended(value=work(Place(rank, ranks, pipe), *arguments))
    except BaseException as error:
        # without its frames, which hold the optimizer: it ends with them
        ended = Ended(error=error.with_traceback(None))
    ended.at = time.monotonic()
    try:
        pipe.send_bytes(pickle.dumps(ended))
    except Exception as error:
        pipe.send_bytes(pickle.dumps(Ended(error=RuntimeError(repr(error)), at=ended.at)))
    time.sleep(stays)
    # as an interpreter does at its end, but not multiprocessing
    atexit._run_exitfuncs()


def is_stopped(pid: int | None) -> bool:
    """Whether a process was stopped by a signal."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] in "TZ"


def free_port() -> int:
    """A port that nobody listens at."""
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    return store.port
