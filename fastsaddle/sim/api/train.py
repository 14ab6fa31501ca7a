"""One run from Python."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import Any

import torch
from rich.console import Console

from fastsaddle.sim.api import notebook, options
from fastsaddle.sim.api.run import Run
from fastsaddle.sim.commands import train as command
from fastsaddle.sim.observer import Observer
from fastsaddle.sim.run.interrupts import Interrupts
from fastsaddle.sim.run.job import Job
from fastsaddle.sim.run.progress import Progress
from fastsaddle.sim.run.trainer import run
from fastsaddle.sim.run.world import is_launched
from fastsaddle.sim.tracker import Tracker


def train(*, observers: Sequence[Observer] = (), quiet: bool = False, **given: Any) -> Run:
    """Train many agents on real data, as `fastsaddle train` does, and give what was written.

    Every option of the command is one here, with an underscore for each hyphen: `batch_size=32`. The bits are those of
    the command. Ctrl-C, or a notebook's stop button, leaves a checkpoint of the last whole step; a second one acts at
    once. torch's number of threads, its random state and its choice of deterministic algorithms are afterwards what
    they were.

    Args:
        observers: are told of each step and each evaluation, see `fs.sim.Observer`. A `fs.sim.Tracker` among them is
            opened and closed too, and what it raises does not end the run.
        quiet: print nothing. Otherwise there is a bar, in notebooks too, or a line for each evaluation where there is
            neither a terminal nor a notebook.
        given: `algorithm="qsaddle"`, `agents=16`, `topology="ring"`, `out=DIR` ...: `fastsaddle train --help-all`, or
            `help(fastsaddle.sim.config.TrainConfig)`, explains them. `resume=DIR` goes on with a run, of which
            config.json has the options; `minutes=M` stops after so long, with a checkpoint.

    Returns:
        The run; `run.is_finished` says whether `minutes` were enough.

    Raises:
        TypeError: an option that does not exist.
        ValueError, OSError: options that cannot be, or data that are missing, before anything is written.
        StoppedError: training diverged, or a file could not be written; the checkpoint before is whole.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.
        RuntimeError: under torchrun, where `torchrun ... -m fastsaddle train` is what spreads the agents.

    Example:
        >>> import fastsaddle as fs
        >>> run = fs.sim.train(agents=4, steps=4, out="example", quiet=True)
        >>> run.is_finished
        True
    """
    config = options.config("fs.sim.train", given)
    if is_launched() and config.ranks == "auto":
        raise RuntimeError(
            "fs.sim.train trains all agents in one process: use torchrun ... -m fastsaddle train, or ranks='off'"
        )
    typed = list(given)
    command.check_options(config, typed)
    with _settings_kept():
        job = command.prepared(config, typed, quiet=quiet)
        if job is None:
            # one that had nothing left to do
            assert config.resume is not None
            return Run(config.resume)
        path = job.directory.path
        again = f"fs.sim.train(resume={str(path)!r})"
        with command.stopping(job, again), closing(job.directory):
            received = _carry_out(job, observers, config.minutes, quiet, again)
    if received == signal.SIGINT:
        raise KeyboardInterrupt(f"stopped at step {job.step}; go on with {again}")
    if received:
        signal.raise_signal(received)
    return Run(path)


def _carry_out(
    job: Job, observers: Sequence[Observer], minutes: float | None, quiet: bool, again: str
) -> int:
    """Take a job to its end, a signal or its deadline; the signal's number, 0 without one."""
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        interrupts = stack.enter_context(_interrupts(quiet, again))
        shown = _shown(job, quiet, stack)
        trackers = [one for one in observers if isinstance(one, Tracker)]
        others = [one for one in observers if not isinstance(one, Tracker)]
        recorders = command.recorders(job, stack, trackers)
        run(
            job,
            [interrupts, *shown, command.Drawer(job, quiet), *recorders, *others],
            lambda: bool(interrupts.received) or time.monotonic() > deadline,
        )
    if job.step < job.config.steps:
        if not quiet:
            print(command.stopped(job, again), flush=True)
        return interrupts.received
    command.draw_classes(job)
    command.draw_curves(job)
    return 0


def _interrupts(quiet: bool, again: str) -> AbstractContextManager[Interrupts]:
    """What notes signals; nothing is noted in threads, which get none."""
    interrupts = Interrupts(after=f"with a checkpoint; go on with {again}", is_quiet=quiet)
    if threading.current_thread() is threading.main_thread():
        return interrupts
    return nullcontext(interrupts)


def _shown(job: Job, quiet: bool, stack: ExitStack) -> list[Observer]:
    """The progress, on `stack`, after a few lines on what is about to run."""
    if quiet:
        return []
    kind = notebook.Bar if notebook.is_running() else Progress
    return [command.tell_begin(job, Console(), stack, kind)]


@contextmanager
def _settings_kept() -> Iterator[None]:
    """After the block torch has as many threads as before, and what a run on a GPU sets is as it was."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
