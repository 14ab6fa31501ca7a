"""`fastsaddle train`: one run, with a progress bar, until its end, a signal or a deadline."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import (
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
)
from typing import Any

import tyro
from rich.console import Console
from torch import Tensor

from fastsaddle.compressors._wire import NonFiniteError
from fastsaddle.sim.choices import check_once
from fastsaddle.sim.commands import train_help
from fastsaddle.sim.commands.stopped import StoppedError
from fastsaddle.sim.config import DEFAULTS, NOT_STORED, TrainConfig, option
from fastsaddle.sim.observer import Observer
from fastsaddle.sim.run import job as jobs
from fastsaddle.sim.run.interrupts import Interrupts
from fastsaddle.sim.run.job import CLASSES, CURVES, Job
from fastsaddle.sim.run.progress import Progress
from fastsaddle.sim.run.step_graph import CaptureError
from fastsaddle.sim.run.summary import describe, resume_command, summarize, title
from fastsaddle.sim.run.tracking import Tracking
from fastsaddle.sim.run.trainer import run
from fastsaddle.sim.run.world import World, is_launched, speaks
from fastsaddle.sim.tracker import Tracker
from fastsaddle.sim.uses import check_typed, is_wanted

# the exit status of a run that stopped at its deadline: to be tried again
UNFINISHED = 75
# options that only several processes have use for
OF_PROCESSES = ("placement", "timeout", "overlap")
# options that make a run longer
OF_LENGTH = ("steps", "epochs")


def main(arguments: list[str]) -> int:
    """Read the command line and run it; the exit status of `train`, 0 for a run that is finished already.

    Raises ValueError or OSError for options that cannot be, before anything is written, and StoppedError for a run that
    diverged or could not write.
    """
    if train_help.is_asked_for(arguments):
        if speaks():
            train_help.show(arguments)
        return 0
    # of several processes one says what is wrong
    with nullcontext() if speaks() else _silenced():
        config = tyro.cli(TrainConfig, args=arguments, prog="fastsaddle train")
    try:
        typed = typed_names(arguments)
        check_options(config, typed)
    except ValueError:
        if speaks() or config.ranks == "off":
            raise
        return 2
    if config.ranks == "auto" and is_launched():
        # it uses this module
        from fastsaddle.sim.commands import ranks

        return ranks.main(config, typed)
    job = prepared(config, typed)
    return 0 if job is None else to_its_end(job, config.minutes)


@contextmanager
def _silenced() -> Iterator[None]:
    """Inside the block nothing is printed, by no thread."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def check_options(config: TrainConfig, typed: list[str]) -> None:
    """Raise ValueError for options that cannot be together, or that would do nothing."""
    alone = [n for n in typed if n in OF_PROCESSES and not is_launched()]
    if alone and is_wanted(getattr(config, alone[0])):
        raise ValueError(f"--{option(alone[0])} needs several processes, as torchrun starts them")
    if config.resume is None:
        config.check()
        check_typed(config, typed)
        return
    others = [n for n in typed if n not in ("resume", *NOT_STORED, *OF_LENGTH) or n == "out"]
    if others:
        raise ValueError(
            "--resume takes no other option but --steps or --epochs, --minutes and how processes share the "
            f"agents (config.json has them), got --{option(others[0])}"
        )
    if all(n in typed for n in OF_LENGTH):
        raise ValueError("--steps and --epochs exclude each other")


def prepared(
    config: TrainConfig, typed: list[str], world: World | None = None, quiet: bool = False
) -> Job | None:
    """The run that options ask for, new or gone on with; None, which is said unless `quiet`, for one that is finished.

    Raises ValueError or OSError for options that cannot be, before anything is written.
    """
    if config.resume is None:
        return jobs.start(config, world)
    longer = {n: getattr(config, n) for n in OF_LENGTH if n in typed}
    directory = jobs.opened(config.resume, world)
    if not longer and jobs.finished(directory, world):
        directory.close()
        done = f"all {directory.config['steps']} steps are done (--steps makes it longer)"
        say(f"{config.resume} is finished: {done}", world, quiet)
        return None
    job = jobs.go_on(directory, **longer, world=world)
    if jobs.finished(directory, world):
        directory.close()
        for line in (
            *job.notes,
            f"{config.resume} is finished: all {job.config.steps} steps are done",
        ):
            say(line, world, quiet)
        return None
    return job


def say(line: str, world: World | None, quiet: bool = False) -> None:
    """Print a line, of several processes in the first one alone."""
    if not quiet and (world is None or world.is_first):
        print(line, flush=True)


def to_its_end(job: Job, minutes: float | None) -> int:
    """Run a job; the exit status of `train`.

    Raises StoppedError where it cannot reach its end.
    """
    with stopping(job, resume_command(job)), closing(job.directory):
        return train(job, Console(), minutes)


@contextmanager
def stopping(job: Job, again: str) -> Iterator[None]:
    """Inside the block what keeps a run from its end is a StoppedError, which says what may help.

    Args:
        job: the run.
        again: the command line that goes on with it.
    """
    try:
        yield
    except NonFiniteError as error:
        remedy = (
            "a smaller --lr" if job.config.choco is None else "a smaller --lr or --consensus-step"
        )
        raise StoppedError(
            f"training diverged at step {job.step}, {remedy} may help: {error}"
        ) from error
    except CaptureError as error:
        raise StoppedError(f"step {job.step}: {error}") from error
    except OSError as error:
        way = f"the checkpoint before is whole, go on with: {again}"
        raise StoppedError(f"{error}; {way}") from error


def typed_names(arguments: list[str]) -> list[str]:
    """The options of a command line, by their fields' names. Raises ValueError for one that is given twice."""
    names = []
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            names.append(name if name in DEFAULTS else name.removeprefix("no_"))
    check_once((f"--{option(name)}" for name in names), "fastsaddle train")
    return names


def train(job: Job, console: Console, minutes: float | None = None) -> int:
    """Run a job to its end, the first SIGINT or SIGTERM, or for so many minutes; the exit status.

    0: finished. 130 and 143: stopped by a signal, 75: by the deadline, with a checkpoint of the last whole step.
    Raises OSError when a file cannot be written; the checkpoint before is then whole.
    """
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    again = (
        f"with a checkpoint; a second time at once, from the one before on: {resume_command(job)}"
    )
    with Interrupts(after=again) as interrupts, ExitStack() as stack:
        progress = tell_begin(job, console, stack)
        observers: list[Observer] = [interrupts, progress, Drawer(job), *recorders(job, stack)]
        run(job, observers, lambda: bool(interrupts.received) or time.monotonic() > deadline)
    if job.step < job.config.steps:
        print(stopped(job, resume_command(job)), flush=True)
        return 128 + interrupts.received if interrupts.received else UNFINISHED
    tell_end(job, console, progress)
    return 0


def tell_begin(
    job: Job, console: Console, stack: ExitStack, kind: type[Progress] = Progress
) -> Progress:
    """Say what is about to run; the progress, of a kind, on `stack`."""
    for line in (*describe(job), *job.notes):
        print(line, flush=True)
    rows = job.directory.rows
    stepped = rows[-1].get("step_seconds", 0.0) if rows else 0.0
    return stack.enter_context(kind(console, job.config.steps, job.step, stepped))


def stopped(job: Job, again: str) -> str:
    """How a run that stopped goes on."""
    return f"stopped at step {job.step}; go on with:\n{again}"


def tell_end(job: Job, console: Console, progress: Progress) -> None:
    """The pictures and the table of a run that is done."""
    draw_classes(job)
    draw_curves(job)
    summarize(job, progress.steps_per_second, console)


def recorders(job: Job, stack: ExitStack, more: Sequence[Tracker] = ()) -> list[Observer]:
    """Those who write more than metrics.jsonl, and `more` of them, to be closed by `stack`."""
    trackers = [*job.trackers, *more]
    return [stack.enter_context(Tracking(job, trackers))] if trackers else []


class Drawer:
    """Draws the split when a run is first evaluated after a step: before the first it would keep the user waiting.

    A picture that cannot be drawn is told, and ends no run: its end tries once more, after the last checkpoint.
    """

    def __init__(self, job: Job, quiet: bool = False) -> None:
        self._job, self._quiet = job, quiet
        self._has_tried = False

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """Nothing."""

    def begin_evaluation(self, step: int) -> None:
        """Nothing."""

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Draw the split, unless it is there or could not be drawn before."""
        if self._has_tried or not row["step"]:
            return
        self._has_tried = True
        try:
            draw_classes(self._job)
        except Exception as error:
            # whatever matplotlib raises: the checkpoint of this step is still to be written
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if not self._quiet:
                print(f"{CLASSES} could not be drawn yet: {reason}", flush=True)


def draw_classes(job: Job) -> None:
    """The heat map of the split, unless it is there."""
    # importing matplotlib takes as long as a short run's steps
    from fastsaddle.sim.run import plots

    path = job.directory.path / CLASSES
    if not path.exists():
        classes = job.simulation.dataset.classes
        plots.draw_classes(path, job.simulation.data.partition, classes, title(job))


def draw_curves(job: Job) -> None:
    """The learning curves, at the end of a run."""
    from fastsaddle.sim.run import plots

    plots.draw_curves(job.directory.path / CURVES, job.directory.rows, title(job))
