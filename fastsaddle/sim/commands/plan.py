"""`fastsaddle plan`: what a run will take, from a few of its steps, before it is begun."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import tyro

from fastsaddle.comm.period import QSR
from fastsaddle.sim import methods
from fastsaddle.sim.commands.train import check_options, typed_names
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.labels import of_engine
from fastsaddle.sim.run.memory_needed import peak_bytes, resident_bytes, size
from fastsaddle.sim.run.simulation import Simulation

# steps that are not counted, and seconds and steps that are
WARMUP, SECONDS, FEWEST, MOST = 3, 3.0, 3, 500
# checkpoints of a run that are there at once
CHECKPOINTS = 2


@dataclass(frozen=True)
class Trial:
    """What some steps and one evaluation of a run took: seconds each, and what was sent and computed.

    `messages` and `gradients` are those of the whole run; `bytes_a_message` is None where the trial had none.
    """

    steps: int
    step_seconds: float
    evaluation_seconds: float
    messages: int
    bytes_a_message: float | None
    gradients: float


def main(arguments: list[str]) -> int:
    """Read a run's command line, take some of its steps and say what all of it will take. Writes no file."""
    config = tyro.cli(
        TrainConfig,
        args=arguments,
        prog="fastsaddle plan",
        description="What a run will take in time, memory and bytes: takes the options of `fastsaddle train`, tries "
        "some steps and one evaluation for a few seconds, and writes nothing.",
    )
    if config.resume is not None:
        raise ValueError("plan takes the options of a new run, it takes no --resume")
    check_options(config, typed_names(arguments))
    print("\n".join(lines(config)))
    return 0


def lines(config: TrainConfig) -> list[str]:
    """The plan of a run. Raises ValueError or OSError for options that cannot be."""
    simulation = Simulation(config)
    threads = config.threads or simulation.suitable_threads(config.batch_size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        trial = tried(simulation, config)
    finally:
        torch.set_num_threads(before)
    steps = simulation.steps
    interval = replace(config, steps=steps).evaluation_interval
    evaluations = math.ceil(steps / interval) + 1
    stepping, evaluating = steps * trial.step_seconds, evaluations * trial.evaluation_seconds
    gradients = trial.gradients / config.agents
    written = sum(t.nbytes for t in simulation.tensors().values())
    return [
        f"time    {duration(stepping + evaluating)}: {steps:,} steps of {1e3 * trial.step_seconds:.3g} ms take "
        f"{duration(stepping)}, {evaluations:,} evaluations of {trial.evaluation_seconds:.2g} s "
        f"{duration(evaluating)}",
        f"        measured over {trial.steps} steps on {simulation.device}, "
        f"{of_engine(simulation.engine.engine, threads)}",
        f"memory  {size(resident_bytes(simulation.optimizer))} of models, gradients and state{_peak()}",
        f"sent    {_sent(config, steps, trial)}",
        f"work    {gradients:,.0f} gradients an agent, of {config.batch_size} samples each",
        f"disk    {size(CHECKPOINTS * written)} of checkpoints",
    ]


def _sent(config: TrainConfig, steps: int, trial: Trial) -> str:
    """What a whole run sends, in words."""
    if trial.messages and trial.bytes_a_message is None:
        return f"not known: agents sent nothing in the {trial.steps:,} steps that were tried"
    sent = trial.messages * (trial.bytes_a_message or 0.0)
    return f"{size(sent / config.agents)} an agent, {size(sent)} in all"


def cadence(config: TrainConfig) -> int:
    """Steps after which what is sent repeats."""
    has_period = methods.takes(config.algorithm, "period") and config.period.isdigit()
    return config.gossip_every * (int(config.period) if has_period else 1)


def sending(config: TrainConfig, simulation: Simulation, steps: int) -> Sequence[int]:
    """The steps among the first so many, counted from 1, after which agents send."""
    period = methods.parse_period(config.period, simulation.steps)
    if not (methods.takes(config.algorithm, "period") and isinstance(period, QSR)):
        every = cadence(config)
        return range(every, steps + 1, every)
    found, due = [], period.first
    while due <= steps:
        found.append(due)
        due += period.period(simulation.rate(due), due)
    return found


def tried(simulation: Simulation, config: TrainConfig) -> Trial:
    """Take some steps, as many as fit into a few seconds and whole cadences of them where that is feasible.

    They are no more than the run has, which may diverge after its end.
    """
    ascent = methods.parse_sam(config.sam)
    every = math.lcm(cadence(config), getattr(ascent, "period", 1))
    last = max(FEWEST, simulation.steps - WARMUP)
    seconds: list[float] = []
    for step in range(WARMUP):
        simulation.step(step)
    sent, computed = simulation.totals()[0], simulation.evaluations
    deadline = time.perf_counter() + SECONDS
    while len(seconds) < FEWEST or (len(seconds) % every and len(seconds) < last):
        seconds.append(_timed(simulation, WARMUP + len(seconds)))
        if time.perf_counter() > deadline + 3 * SECONDS:
            break
    while time.perf_counter() < deadline and len(seconds) + every <= min(MOST, last):
        for _ in range(every):
            seconds.append(_timed(simulation, WARMUP + len(seconds)))
    count = len(seconds)
    sent = simulation.totals()[0] - sent
    times = sum(step > WARMUP for step in sending(config, simulation, WARMUP + count))
    rate = (simulation.evaluations - computed) / count
    left = simulation.steps - WARMUP - count
    gradients = simulation.evaluations + rate * left if left >= 0 else rate * simulation.steps
    begin = time.perf_counter()
    simulation.evaluate()
    return Trial(
        count,
        # gossips that come now and then count with their share, outliers of the machine do not
        statistics.median(seconds) if every == 1 else statistics.fmean(seconds),
        time.perf_counter() - begin,
        len(sending(config, simulation, simulation.steps)),
        sent / times if times else None,
        gradients,
    )


def _timed(simulation: Simulation, step: int) -> float:
    begin = time.perf_counter()
    simulation.step(step)
    if simulation.device.type == "cuda":
        torch.cuda.synchronize(simulation.device)
    return time.perf_counter() - begin


def _peak() -> str:
    """The most memory that this process has had, where the system tells."""
    most = peak_bytes()
    return "" if most is None else f"; the trial took {size(most)}, data and torch itself included"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, with two digits."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return (
                f"{seconds / length:.2g} {unit}"
                if seconds < 100 * length
                else f"{seconds / length:,.0f} {unit}"
            )
    return f"{seconds:.2g} s"
