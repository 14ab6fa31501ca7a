"""The loop of a run: train, evaluate, checkpoint, and stop between two steps when asked to."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from fastsaddle.graphs.faults import Faulty
from fastsaddle.sim.run import agent_rows, checkpoint, spread_checkpoint
from fastsaddle.sim.run.faults import FaultLog
from fastsaddle.sim.run.job import Job


class Observer(Protocol):
    """What is told how a run goes. Your own is a subclass with those of its methods that you need.

    An error that a method raises ends the run; its last checkpoint is whole.
    """

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """Called after each step.

        Args:
            step: number of steps done.
            loss: mean training loss of the step, 0-d, still on its device.
            seconds: seconds that all steps have taken.
        """

    def begin_evaluation(self, step: int) -> None:
        """Called before each evaluation.

        Args:
            step: number of steps done.
        """

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Called after each evaluation.

        Args:
            row: the new line of metrics.jsonl, by key.
        """


def run(job: Job, observers: Sequence[Observer], is_stopped: Callable[[], bool]) -> None:
    """Take a job to its last step, or to a checkpoint of the step during which `is_stopped` became true.

    Raises NonFiniteError when training diverged, OSError when a file cannot be written; the checkpoint before
    is then whole.
    """
    if job.config.threads is not None:
        torch.set_num_threads(job.config.threads)
    config, directory, simulation = job.config, job.directory, job.simulation
    saved = job.step
    clock = _Clock(directory.rows, simulation.device)
    fallen = _fault_log(job)
    while True:
        is_last = job.step >= config.steps
        is_evaluated = bool(directory.rows) and directory.rows[-1]["step"] == job.step
        if not is_evaluated and (is_last or job.step % config.evaluation_interval == 0):
            for observer in observers:
                observer.begin_evaluation(job.step)
            if fallen is not None:
                fallen.extend(job.step)
            directory.append(_row(job, clock))
            for observer in observers:
                observer.show_evaluation(directory.rows[-1])
        stopped = is_stopped()
        if (is_last or stopped or job.step % config.checkpoint_interval == 0) and job.step != saved:
            simulation.optimizer.raise_if_skipped()
            if fallen is not None:
                fallen.extend(job.step)
                fallen.sync()
            directory.sync()
            save(job)
            saved = job.step
        if is_last or stopped:
            return
        begin = time.perf_counter()
        loss = simulation.step(job.step)
        job.step += 1
        clock.stepped += time.perf_counter() - begin
        for observer in observers:
            observer.show_step(job.step, loss, clock.stepped)


def _fault_log(job: Job) -> FaultLog | None:
    """What writes faults.jsonl, of several processes in the first one; None where nothing fails."""
    simulation = job.simulation
    writes = simulation.world is None or simulation.world.is_first
    if not writes or not isinstance(simulation.topology, Faulty):
        return None
    begun = simulation.optimizer.communicator.gossips_begun
    return FaultLog(job.directory.path, simulation.topology, begun, job.step)


def save(job: Job) -> None:
    """A checkpoint of this step: a file, or of several processes a folder with a file of each.

    Raises OSError when one of the files cannot be written, on all processes; the checkpoint before is then whole.
    """
    simulation, path, step = job.simulation, job.directory.path, job.step
    tensors, counters, world = simulation.tensors(), simulation.counters(), simulation.world
    if world is None:
        checkpoint.save(path, tensors, step, counters)
        return
    of = agent_rows.dimensions(simulation.optimizer, tensors)
    world.together(lambda: spread_checkpoint.begin(path, step) if world.is_first else None)
    # the folder is there once the first process comes here
    world.share()
    entry = world.together(
        lambda: spread_checkpoint.save_part(path, tensors, of, step, world.agents)
    )
    files = world.collect(entry)

    def seal() -> None:
        if world.is_first:
            spread_checkpoint.seal(path, step, job.config.agents, counters, of, files)
            checkpoint.remove_old(path, step)

    world.together(seal)


class _Clock:
    """Seconds of a run, over all its pieces: `stepped` of steps, `evaluated` of evaluations, and of everything."""

    def __init__(self, rows: list[dict[str, Any]], device: torch.device) -> None:
        # earlier versions did not write them
        self.stepped = rows[-1].get("step_seconds", 0.0) if rows else 0.0
        self.evaluated = rows[-1].get("evaluation_seconds", 0.0) if rows else 0.0
        self._before = rows[-1]["seconds"] if rows else 0.0
        self._begin = time.perf_counter()
        self._device = device

    def wait(self) -> None:
        """Let a GPU finish its steps, which then count as such."""
        if self._device.type == "cuda":
            begin = time.perf_counter()
            torch.cuda.synchronize(self._device)
            self.stepped += time.perf_counter() - begin

    @property
    def total(self) -> float:
        return self._before + time.perf_counter() - self._begin


def _row(job: Job, clock: _Clock) -> dict[str, Any]:
    """A line of metrics.jsonl; None stands for what is not finite, which JSON does not know."""
    simulation = job.simulation
    clock.wait()
    begin = time.perf_counter()
    evaluation = simulation.evaluate()
    clock.evaluated += time.perf_counter() - begin
    steps, loss, *norms = simulation.sums(job.step)
    values = {
        "step": job.step,
        **asdict(evaluation),
        "train_loss": loss / steps if steps else math.nan,
        "lr": simulation.rate(min(job.step, simulation.steps - 1)),
        "bytes_sent": simulation.totals()[0],
        **_compression(simulation.is_compressed, steps, *norms),
        "gradient_evaluations": simulation.evaluations,
        **simulation.shares_down(),
        "step_seconds": round(clock.stepped, 3),
        "evaluation_seconds": round(clock.evaluated, 3),
        "seconds": round(clock.total, 3),
    }
    return {k: v if math.isfinite(v) else None for k, v in values.items()}


def _compression(is_compressed: bool, steps: int, update: float, error: float) -> dict[str, float]:
    """Mean norms since the line before: of what was to be sent, of what was lost, and their ratio."""
    if not is_compressed:
        return {"update_norm": math.nan, "error_norm": 0.0, "compression_error": 0.0}
    return {
        "update_norm": update / steps if steps else math.nan,
        "error_norm": error / steps if steps else math.nan,
        "compression_error": error / update if update else math.nan,
    }
