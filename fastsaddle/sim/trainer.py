"""The main job: train, evaluate, checkpoint, and stop between two steps when asked to."""

import math
import time
from dataclasses import asdict

import torch
from rich.console import Console

from fastsaddle.sim import checkpoint, plots
from fastsaddle.sim.interrupts import Interrupts
from fastsaddle.sim.job import CLASSES, CURVES, Job
from fastsaddle.sim.progress import Progress
from fastsaddle.sim.summary import describe, resume_command, summarize, title


def train(job: Job, console: Console) -> int:
    """Run a job to its end, or to the first SIGINT or SIGTERM; the exit status.

    0: finished. 130 and 143: stopped by a signal, with a checkpoint of the last whole step.
    Raises OSError when a file cannot be written; the checkpoint before is then whole.
    """
    if job.config.threads is not None:
        torch.set_num_threads(job.config.threads)
    with Interrupts() as interrupts:
        for line in (*describe(job), *job.notes):
            print(line, flush=True)
        if not (job.directory.path / CLASSES).exists():
            classes = job.simulation.dataset.classes
            path = job.directory.path / CLASSES
            plots.draw_classes(path, job.simulation.partition, classes, title(job))
        with Progress(console, job.config.steps, job.step) as progress:
            _loop(job, progress, interrupts)
        if interrupts.received:
            print(f"stopped at step {job.step}; go on with:\n{resume_command(job)}", flush=True)
            return 128 + interrupts.received
        plots.draw_curves(job.directory.path / CURVES, job.directory.rows, title(job))
        summarize(job, progress.steps_per_second, console)
    return 0


def _loop(job: Job, progress: Progress, interrupts: Interrupts) -> None:
    config, directory, simulation = job.config, job.directory, job.simulation
    saved = job.step
    seconds_before = directory.rows[-1]["seconds"] if directory.rows else 0.0
    begin = time.perf_counter()
    while True:
        is_last = job.step >= config.steps
        is_evaluated = bool(directory.rows) and directory.rows[-1]["step"] == job.step
        if not is_evaluated and (is_last or job.step % config.evaluation_interval == 0):
            values = {
                "step": job.step,
                **asdict(simulation.evaluate()),
                "bytes_sent": simulation.optimizer.bytes_sent,
                "seconds": round(seconds_before + time.perf_counter() - begin, 3),
            }
            # JSON knows no infinity, which a diverging loss reaches
            directory.append({k: v if math.isfinite(v) else None for k, v in values.items()})
            progress.show_evaluation(directory.rows[-1])
        is_due = is_last or job.step % config.checkpoint_interval == 0 or interrupts.received
        if is_due and job.step != saved:
            simulation.optimizer.raise_if_skipped()
            directory.sync()
            bytes_sent = simulation.optimizer.bytes_sent
            checkpoint.save(directory.path, simulation.tensors(), job.step, bytes_sent)
            saved = job.step
        if is_last or interrupts.received:
            return
        loss = simulation.step(job.step)
        job.step += 1
        progress.show_step(job.step, loss)
