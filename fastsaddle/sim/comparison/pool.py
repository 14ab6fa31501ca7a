"""Run the cells of a grid in worker processes, which stop with a checkpoint when told to, or left alone."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import replace
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.synchronize import Event
from pathlib import Path

from fastsaddle.compressors._wire import NonFiniteError
from fastsaddle.sim.commands.train import draw_classes, draw_curves, recorders
from fastsaddle.sim.comparison.final_sharpness import SHARPNESS, measure_sharpness
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import job as jobs
from fastsaddle.sim.run.directory_lock import RunInUseError
from fastsaddle.sim.run.run_dir import RunDirectory
from fastsaddle.sim.run.trainer import run
from fastsaddle.sim.run.whole_files import write_synced

DIVERGED = "diverged.json"
# a worker whose parent died still has to write its checkpoint
PATIENCE = 60.0
POLL = 0.25

_stop: Event
_parent = 0
# held while a cell runs: an orphan ends only when its checkpoint is written
_running = threading.Lock()


def is_done(directory: Path, sharpness: bool = False) -> bool:
    """Whether a cell has come to its end, or to a gradient that was not finite.

    With `sharpness` only when its consensus model's has been measured too.
    """
    if (directory / DIVERGED).exists():
        return True
    if not (directory / "config.json").exists():
        return False
    return jobs.is_finished(_open(directory)) and (
        not sharpness or (directory / SHARPNESS).exists()
    )


def run_all(
    cells: list[tuple[Path, TrainConfig]],
    workers: int,
    stop: Event,
    deadline: float,
    sharpness: bool = False,
) -> Iterator[Path | None]:
    """Run cells in so many processes; yields each directory that is done, and None while nothing happens.

    Ends early, every cell under way having a checkpoint, once `stop` is set or `time.time()` passes `deadline`.
    Raises what a cell raised.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(stop, os.getpid())
    )
    with executor:
        try:
            pending: dict[Future[bool], Path] = {
                executor.submit(run_cell, path, config, deadline, sharpness): path
                for path, config in cells
            }
            while pending:
                done, _ = wait(pending, POLL, FIRST_COMPLETED)
                for future in done:
                    path = pending.pop(future)
                    if future.result():
                        yield path
                yield None
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def run_cell(path: Path, config: TrainConfig, deadline: float, sharpness: bool) -> bool:
    """Begin a cell or go on with it, until it is done (True) or told to stop (False)."""
    with _running:
        return not _is_stopped(deadline) and _run(path, config, deadline, sharpness)


def _run(path: Path, config: TrainConfig, deadline: float, sharpness: bool) -> bool:
    begun = (path / "config.json").exists()
    job = jobs.go_on(_open(path)) if begun else jobs.start(replace(config, out=path))
    for note in job.notes:
        print(f"{path.name}: {note}", flush=True)
    with closing(job.directory):
        return _carry_out(job, path, deadline, sharpness)


def _carry_out(job: jobs.Job, path: Path, deadline: float, sharpness: bool) -> bool:
    draw_classes(job)
    try:
        with ExitStack() as stack:
            run(job, recorders(job, stack), lambda: _is_stopped(deadline))
    except NonFiniteError as error:
        content = {"step": job.step, "message": str(error)}
        write_synced(path / DIVERGED, json.dumps(content) + "\n")
        return True
    if job.step < job.config.steps:
        return False
    draw_curves(job)
    if sharpness:
        measure_sharpness(job)
    return True


def _begin(stop: Event, parent: int) -> None:
    global _stop, _parent
    _stop, _parent = stop, parent
    # Ctrl-C reaches the whole group: the parent alone decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent, however it dies: a worker would wait for work for ever."""
    process = multiprocessing.parent_process()
    assert process is not None
    wait_for_any([process.sentinel])
    with _running:
        os._exit(1)


def _is_stopped(deadline: float) -> bool:
    return _stop.is_set() or time.time() > deadline or os.getppid() != _parent


def _open(path: Path) -> RunDirectory:
    begin = time.monotonic()
    while True:
        try:
            return RunDirectory(path)
        except RunInUseError:
            if time.monotonic() - begin > PATIENCE:
                raise
            time.sleep(POLL)
