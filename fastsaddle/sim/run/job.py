"""Assemble a run: a new one from options, or one to go on with from its directory alone."""

import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastsaddle
from fastsaddle.kernels.op import ops
from fastsaddle.sim import choices, methods
from fastsaddle.sim.config import NOT_STORED, TrainConfig
from fastsaddle.sim.run import (
    agent_rows,
    checkpoint,
    faults,
    independence,
    schedule,
    spread_checkpoint,
    topologies,
)
from fastsaddle.sim.run.follower import Follower
from fastsaddle.sim.run.run_dir import RunDirectory, check_new, make_unique
from fastsaddle.sim.run.simulation import LINE, Simulation
from fastsaddle.sim.run.world import World
from fastsaddle.sim.tracker import Tracker
from fastsaddle.sim.trackers import _choice

LOG = logging.getLogger(__name__)

CLASSES = "classes.png"
CURVES = "curves.png"


@dataclass
class Job:
    """A simulation and the directory that it writes to.

    `step` counts the steps done, `notes` is what the user should hear before it goes on. `trackers` write it down
    elsewhere, of several processes in the first one.
    """

    config: TrainConfig
    simulation: Simulation
    directory: RunDirectory
    step: int = 0
    notes: list[str] = field(default_factory=list)
    trackers: list[Tracker] = field(default_factory=list)


def start(config: TrainConfig, world: World | None = None) -> Job:
    """A new run. Raises ValueError or OSError before any file is written.

    Of several processes the first one makes the directory; what it resolved holds for all.
    """
    config.check()
    if config.out is not None:
        _on_first(world, partial(check_new, config.out))
    trackers = _trackers(config, world)
    simulation = Simulation(config, world)
    named = {n: getattr(config, n) for n in choices.OPTIONS}
    own: dict[str, Any] = {
        n: choices.absolute(text) for n, text in named.items() if text is not None
    }
    config = replace(config, **own, steps=simulation.steps)
    config = replace(
        config,
        data_dir=config.data_dir.resolve() if config.data_dir else None,
        faults=faults.absolute(config.faults),
        track=_choice.absolute(config.track),
        device=str(simulation.device),
        momentum=simulation.optimizer.defaults.get("momentum"),
        engine=choices.absolute(simulation.engine.engine),
        chunk=simulation.engine.chunk,
        cuda_graph=simulation.cuda_graph,
        threads=config.threads or simulation.suitable_threads(config.batch_size),
        eval_every=config.evaluation_interval,
        checkpoint_every=config.checkpoint_interval,
    )
    if world is not None:
        config = replace(config, threads=world.share(config.threads))
    options = {name: value for name, value in config.plain().items() if name not in NOT_STORED}
    reason = {"cuda_graph_reason": simulation.cuda_graph_reason}
    if methods.takes(config.algorithm, "topology") and config.agents <= topologies.MOST_SEEN:
        reason["graph"] = topologies.facts(simulation.topology)
    marked = {}
    if world is not None:
        module, samples = simulation.stack.agent(0), simulation.dataset.train[:2]
        marked["bits"] = independence.bits(module, config.engine, samples)
    record = {**options, **reason, **marked, **_surroundings(simulation.device)}

    def create() -> RunDirectory:
        return RunDirectory.create(config.out or make_unique(config), record)

    job = Job(config, simulation, _directory(world, create), trackers=trackers)
    with _let_go(job.directory):
        _describe_partition(job)
    LOG.info("a new run in %s", job.directory.path)
    return job


def _trackers(config: TrainConfig, world: World | None) -> list[Tracker]:
    """Those that the options name. Raises ImportError, with what to install, before anything is written."""
    return _on_first(world, lambda: _choice.made(config.trackers)) or []


@contextmanager
def _let_go(directory: RunDirectory) -> Iterator[None]:
    """A directory is free again where the block raises: whoever keeps the exception would keep the lock with it."""
    try:
        yield
    except BaseException:
        directory.close()
        raise


def _on_first(world: World | None, work: Callable[[], Any]) -> Any:
    """What `work` gives in the first of several processes, None in the others; where it raises, all end."""
    return work() if world is None else world.first(work)


def _directory(world: World | None, make: Callable[[], RunDirectory]) -> RunDirectory:
    """The run's directory as each process has it, of which the first alone makes it, and writes there."""
    directory = _on_first(world, make)
    if world is None:
        return directory
    known = None
    if directory is not None:
        known = [str(directory.path.resolve()), directory.config, directory.rows]
    path, config, rows = world.share(known)
    return Follower(Path(path), config, rows) if directory is None else directory


def is_finished(directory: RunDirectory) -> bool:
    """Whether the last step's evaluation and checkpoint are there, whole, and the figures."""
    steps = directory.config.get("steps")
    found = checkpoint.find(directory.path)
    has_figures = all((directory.path / name).exists() for name in (CLASSES, CURVES))
    evaluated = bool(directory.rows) and directory.rows[-1]["step"] == steps
    if not (evaluated and has_figures and found and found[0][0] == steps):
        return False
    try:
        checkpoint.load(found[0][1])
    # going on from the one before says so
    except ValueError:
        return False
    return True


def opened(path: Path, world: World | None = None) -> RunDirectory:
    """The directory of a run that exists. Raises ValueError when it is none, or another process has it."""
    return _directory(world, lambda: RunDirectory(path))


def finished(directory: RunDirectory, world: World | None = None) -> bool:
    """Whether a run has nothing left to do, as the first process sees it."""
    if world is None:
        return is_finished(directory)
    return bool(world.share(world.is_first and is_finished(directory)))


def go_on(
    directory: RunDirectory,
    steps: int | None = None,
    epochs: float | None = None,
    world: World | None = None,
) -> Job:
    """The run as its latest whole checkpoint left it, or at step 0 where it has none yet.

    `steps` or `epochs` make it longer, which config.json then records.

    Raises ValueError or OSError when config.json, the data or the checkpoints cannot be used, and for fewer steps than
    are done; the directory is free then.
    """
    with _let_go(directory):
        return _gone_on(directory, steps, epochs, world)


def _gone_on(
    directory: RunDirectory, steps: int | None, epochs: float | None, world: World | None
) -> Job:
    config = directory.options
    if steps is not None or epochs is not None:
        config = replace(config, steps=config.steps if steps is None else steps, epochs=epochs)
        config.check()
    trackers = _trackers(config, world)
    simulation = Simulation(config, world)
    config = replace(config, steps=simulation.steps)
    job = Job(config, simulation, directory, trackers=trackers)
    now = _surroundings(job.simulation.device)
    for name in now:
        if now[name] != directory.config.get(name):
            seen = f"{directory.config.get(name)} then, {now[name]} now"
            job.notes.append(f"{name} changed, the last bits may differ: {seen}")
    directory.remove_leftovers()
    _describe_partition(job)
    _restore(job)
    if config.steps != directory.config["steps"]:
        _extend(job)
    directory.drop_rows_after(job.step)
    return job


def _extend(job: Job) -> None:
    """Take over another number of steps, and say what it does to what moves over a run."""
    config, directory = job.config, job.directory
    before = directory.config["steps"]
    if config.steps < job.step:
        raise ValueError(
            f"--steps {config.steps} is fewer than the {job.step} that {directory.path} has done"
        )
    if (directory.path.resolve().parent.parent / "compare.json").exists():
        raise ValueError(
            f"{directory.path} is one of a comparison's runs, which have equal steps: "
            "give `fastsaddle compare` another --steps"
        )
    now, rate = job.simulation.schedule, job.simulation.rates[0]
    notes = schedule.moved(replace(now, steps=before), now, job.step, rate)
    for name in ("pull_schedule", "push_schedule"):
        if getattr(config, name) != "constant":
            notes.append(f"--{choices.option(name)} is spread over {config.steps:,} steps")
    if config.period.startswith("qsr"):
        notes.append(f"qsr synchronizes last at step {config.steps:,}")
    directory.extend(job.step, config.steps, config.epochs)
    job.notes += [
        f"{config.steps:,} steps in all, it was to be {before:,}; config.json records both",
        *(notes or ["the learning rate is constant, so nothing else changes"]),
    ]


def _describe_partition(job: Job) -> None:
    counts = job.simulation.data.partition.counts
    job.directory.describe_partition(counts, job.simulation.dataset.classes)


def _restore(job: Job) -> None:
    world = job.simulation.world
    found = checkpoint.find(job.directory.path)
    if world is not None:
        # as the first process sees them
        named = world.share([[step, str(path)] for step, path in found])
        found = [(step, Path(path)) for step, path in named]
    for step, path in found:
        reasons = [_refused(job, path)]
        if world is not None:
            # one that only some can use is of no use to any; nobody has failed, so nothing has ended
            reasons = world.collect(reasons[0])
        reason = next((r for r in reasons if r is not None), None)
        if reason is not None:
            job.notes.append(f"{reason}; trying the one before")
            LOG.info("%s", job.notes[-1])
            continue
        job.step = step
        LOG.info("going on from step %d, by %s", step, path)
        # a kill may have come before it was done
        if world is None or world.is_first:
            checkpoint.remove_old(job.directory.path, step)
        return
    if found:
        reason = job.notes[-1].removesuffix("; trying the one before")
        raise ValueError(
            f"no checkpoint in {job.directory.path} is whole: delete them to start from step 0 ({reason})"
        )


def _refused(job: Job, path: Path) -> str | None:
    """Take a checkpoint over; None, or why it cannot be used."""
    try:
        tensors, step, counters = _loaded(job, path)
        _take_over(job, path, tensors, _with_lines(job, path, step, counters))
    except ValueError as error:
        return str(error)
    return None


def _loaded(job: Job, path: Path) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    """A checkpoint's tensors of the agents here, its step and its counters."""
    simulation = job.simulation
    if simulation.world is None:
        return checkpoint.load(path, simulation.device)
    here = simulation.world.agents
    if path.is_dir():
        return spread_checkpoint.load(path, simulation.device, here)
    tensors, step, counters = checkpoint.load(path)
    own = agent_rows.part(tensors, agent_rows.dimensions(simulation.optimizer, tensors), here)
    return {n: t.to(simulation.device) for n, t in own.items()}, step, counters


def _with_lines(job: Job, path: Path, step: int, counters: dict[str, int]) -> dict[str, int]:
    """The counters, with those of lines of metrics.jsonl that earlier versions did not count.

    Raises ValueError where a line is missing that is not written again from here.
    """
    last = max((row["step"] for row in job.directory.rows if row["step"] <= step), default=0)
    if LINE[0] in counters:
        begin, end = (counters.get(name, step) for name in LINE)
        # the sums of the step's own line are in the checkpoint
        needed = begin if end == step and last < step else end
    else:
        config = job.config
        due = step if step == config.steps else step - step % config.evaluation_interval
        needed = max(due, last)
        counters = {**counters, **dict.fromkeys(LINE, last)}
    if last != needed:
        raise ValueError(
            f"{job.directory.metrics} lacks the line of step {needed}, which {path.name} goes on from"
        )
    return counters


def _take_over(job: Job, path: Path, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
    try:
        job.simulation.restore(tensors, counters)
    except ValueError as error:
        raise ValueError(f"{path} is not this run's: {error}") from error


def _surroundings(device: torch.device) -> dict[str, Any]:
    """What the last bits of a run depend on besides its options and threads."""
    is_cpu = device.type == "cpu"
    return {
        "backend": {name: op.choice(device) for name, op in ops().items() if not op.is_layer},
        "machine": (
            f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
            if is_cpu
            else torch.cuda.get_device_name(device)
        ),
        "versions": {
            "fastsaddle": fastsaddle.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
