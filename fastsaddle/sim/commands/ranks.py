"""`fastsaddle train` in several processes that torchrun, or a launcher like it, has started."""

import os
import shlex
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from rich.console import Console

from fastsaddle.ranks.errors import PeerError, TransportError
from fastsaddle.ranks.torch_transport import first_line
from fastsaddle.sim.commands import train
from fastsaddle.sim.config import OVER_RANKS, TrainConfig
from fastsaddle.sim.json_files import read
from fastsaddle.sim.observer import Observer
from fastsaddle.sim.run import world as worlds
from fastsaddle.sim.run.interrupts import Interrupts
from fastsaddle.sim.run.job import Job
from fastsaddle.sim.run.run_dir import CONFIG
from fastsaddle.sim.run.trainer import run
from fastsaddle.sim.run.world import AbsentError, ElsewhereError, Stopping, World

# told of like signals, by numbers that no signal has
DEADLINE, ALONE = 1_000, 1_001
# the status of wrong options, as of all commands
FAILED = 2
# seconds in which a launcher passes on what the terminal has sent to its processes too, before it kills them
PATIENCE = 30.0
# where processes of several machines find each other
PORT = 29500


def main(config: TrainConfig, typed: list[str]) -> int:
    """Take part in a run; the exit status, on all processes the same: 0 also where it was told to stop.

    Where one of them fails, each says so in a line that names it, and ends at once: the others must not wait for it.

    Raises ValueError or OSError for options that cannot be, before anything is written, where this process is the one
    that found out, and StoppedError where this process is one that keeps the run from its end.
    """
    timeout, launcher = timedelta(seconds=config.timeout), worlds.launcher()
    try:
        world = worlds.join(lambda: _agents(config), config.counts, timeout, config.overlap)
    except ElsewhereError:
        return FAILED
    except AbsentError as error:
        print(f"fastsaddle: error: {error}", file=sys.stderr)
        return FAILED
    except (ValueError, OSError):
        if worlds.speaks():
            raise
        return FAILED
    except dist.DistError as error:
        print(
            f"PeerError: processes have not met: {first_line(error)}", file=sys.stderr, flush=True
        )
        os._exit(1)
    if worlds.is_started_again() and config.resume is None:
        before = world.share(begun(config))
        if before is None:
            train.say("started again, without word of a run: beginning anew", world)
        else:
            train.say(f"started again: going on with {before}", world)
            config = replace(config, resume=Path(before))
            typed = [name for name in typed if name in (*OVER_RANKS, "minutes")]
    where = config.resume
    try:
        # from here on a process that a signal ends is missed by others, which may not have got it yet
        with _interrupts(world) as interrupts:
            job = world.together(lambda: train.prepared(config, typed, world))
            if job is None:
                return 0
            where = job.directory.path
            if world.is_first:
                worlds.note_run(str(where.resolve()))
            with train.stopping(job, again(where)), closing(job.directory):
                return _train(job, world, config.minutes, interrupts, launcher)
    except ElsewhereError:
        # who failed has said why
        return FAILED
    except (PeerError, TransportError) as error:
        # before there is a run, nothing can be gone on with
        way = "" if where is None else f". Go on: {again(where)}"
        print(f"PeerError: {error}{way}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        # neighbors notice a closed connection within a tenth of a second, an interpreter that ends takes seconds
        os._exit(1)
    finally:
        _leave()


def _agents(config: TrainConfig) -> int:
    """How many agents the run has: those of config.json where it goes on."""
    if config.resume is None:
        return config.agents
    agents = read(config.resume / CONFIG).get("agents")
    if not isinstance(agents, int):
        raise ValueError(f"{config.resume / CONFIG} does not say how many agents there are")
    return agents


def _interrupts(world: World) -> Interrupts:
    """Notes of signals from before the run on; one process says so."""
    return Interrupts("the start", "at the first step", PATIENCE, is_quiet=not world.is_first)


def _train(
    job: Job, world: World, minutes: float | None, interrupts: Interrupts, launcher: int | None
) -> int:
    """Run a job to its end, or until a process is told to stop, the time is over, or a launcher is gone."""
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    console, progress = Console(quiet=not world.is_first), None
    interrupts.after = f"with a checkpoint: {again(job.directory.path)}"

    def received() -> int:
        # nobody would start these processes again, nor stop them
        if worlds.launcher() != launcher:
            return ALONE
        late = DEADLINE if time.monotonic() > deadline else 0
        return interrupts.received or late

    asked = Stopping(world, job.step, received)
    interrupts.agreed = lambda: asked.awaited(job.config.steps)
    with ExitStack() as stack:
        observers: list[Observer] = [interrupts]
        if world.is_first:
            progress = train.tell_begin(job, console, stack)
            observers += [progress, train.Drawer(job), *train.recorders(job, stack)]
        run(job, observers, lambda: asked.is_stopped(job.step))
        interrupts.agreed = None
    if job.step < job.config.steps:
        if asked.found == ALONE:
            train.say("torchrun has gone", world)
        # a launcher takes any other status for a failure, and starts all processes again
        train.say(train.stopped(job, again(job.directory.path)), world)
        if asked.found < DEADLINE and launcher is not None:
            train.say("(torchrun ends with a traceback of its own, which is no failure)", world)
        return 0
    if progress is not None:
        interrupts.doing, interrupts.after = "the pictures", "all steps being done"
        train.tell_end(job, console, progress)
    return 0


def begun(config: TrainConfig) -> str | None:
    """Where the run lies that processes before these had begun; None where there is none."""
    noted = worlds.noted_run()
    places = (config.out, None if noted is None else Path(noted))
    return next((str(p) for p in places if p is not None and (p / CONFIG).is_file()), None)


def again(run: Path) -> str:
    """The command line that goes on with a run, on as many processes as there are now; of several machines, on each."""
    ranks, machines = os.environ.get(worlds.RANKS, "2"), os.environ.get(worlds.MACHINES, "1")
    here, where = os.environ.get(worlds.RANKS_HERE, ranks), ""
    if machines != "1":
        # torchrun tells its processes not at which port it was
        address = f"{os.environ['MASTER_ADDR']}:{PORT}"
        where = f"--nnodes {machines} --rdzv-backend c10d --rdzv-endpoint {address} "
    program = f"torchrun {where}--nproc-per-node {here} -m fastsaddle train"
    return f"{program} --resume {shlex.quote(str(run))}"


def _leave() -> None:
    """Let go of the others, who may still read what was sent to them."""
    if dist.is_initialized():
        dist.destroy_process_group()
