"""The processes of one run: which agents are here, who speaks, and how all of them end together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fastsaddle.ranks.errors import PeerError
from fastsaddle.ranks.placement import Overlap, Placement, counts_of
from fastsaddle.ranks.torch_transport import TorchTransport, first_line
from fastsaddle.ranks.transport import Transport
from fastsaddle.ranks.transposition import Transposition

# what torchrun, and launchers like it, tell each process
RANK, RANKS = "RANK", "WORLD_SIZE"
RANKS_HERE, MACHINES = "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"
TRIED_BEFORE = "TORCHELASTIC_RESTART_COUNT"
OF_TORCHRUN = "TORCHELASTIC_RUN_ID"
# where a run lies, for processes that torchrun starts again
WHERE = "fastsaddle/run"
# how many agents it has, in the store of one attempt
AGENTS = "fastsaddle/agents"
# between two looks at whether somebody wants to stop
SECONDS_BETWEEN_LOOKS = 0.5
MOST_STEPS_BETWEEN_LOOKS = 10_000

Result = TypeVar("Result")


class ElsewhereError(Exception):
    """Rank 0 has failed as this one has, and says why."""


class AbsentError(Exception):
    """Not all processes of a run were there in time."""


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return RANK in os.environ and int(os.environ.get(RANKS, "1")) > 1


def speaks() -> bool:
    """Whether this process is the one that tells the user what all of them have to say."""
    return not is_launched() or os.environ[RANK] == "0"


def launcher() -> int | None:
    """The process of torchrun that has started this one, or what takes its place when it is gone; None without it."""
    return os.getppid() if OF_TORCHRUN in os.environ else None


def local_device() -> str:
    """The GPU of this process, where there are GPUs."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


class World:
    """All processes of one run.

    Args:
        transport: between them.
        agents: how many there are in all.
        counts: agents of each rank; None spreads them evenly.
        overlap: whether messages travel while gradients are taken, as `fs.place` says.

    Attributes:
        placement: who holds which agents.
        is_first: whether this is rank 0, which writes the run's files and speaks for all.

    Raises:
        ValueError: fewer agents than ranks, or counts that do not fit.
    """

    def __init__(
        self,
        transport: Transport,
        agents: int,
        counts: tuple[int, ...] | None = None,
        overlap: Overlap = "off",
    ) -> None:
        self.placement = Placement(counts_of(agents, counts, transport.size), transport, overlap)
        self.is_first = transport.rank == 0
        self.everybody = Transposition(self.placement)

    @property
    def agents(self) -> range:
        """Numbers of the agents here."""
        return self.placement.agents_of(self.placement.rank)

    def share(self, value: Any = None) -> Any:
        """What rank 0 gives, which JSON must know, for all ranks; the others' values do not count.

        Raises:
            PeerError: a rank failed.
        """
        said = json.dumps(value).encode() if self.is_first else b""
        return json.loads(self.everybody.texts(said)[0])

    def together(self, work: Callable[[], Result]) -> Result:
        """The result of `work`; where it raises, all others are told in what they wait for next.

        Raises:
            ElsewhereError: it raised on rank 0 too, which says so.
        """
        try:
            return work()
        except PeerError:
            raise
        except Exception as error:
            if 0 in self.everybody.peers.withdraw(error) and not self.is_first:
                raise ElsewhereError(str(error)) from error
            raise

    def first(self, work: Callable[[], Result]) -> Result | None:
        """What `work` gives on rank 0, the only one that does it; None on the others.

        Where it raises, all are told here, so that rank 0 alone has something to say.

        Raises:
            ElsewhereError: it raised on rank 0.
            PeerError: a rank failed.
        """
        result, failure = None, None
        if self.is_first:
            try:
                result = work()
            except Exception as error:
                failure = error
        told = self.share(None if failure is None else str(failure))
        if failure is not None:
            raise failure
        if told is not None:
            raise ElsewhereError(told)
        return result

    def collect(self, value: Any) -> list[Any]:
        """What every rank gives, which JSON must know, in the order of ranks."""
        return [json.loads(said) for said in self.everybody.texts(json.dumps(value).encode())]

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """All agents' rows of x `[agents here, ...]`, on every rank."""
        return self.everybody.rows(x)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """The mean `[columns]` of all agents' rows x `[agents here, columns]`, on every rank."""
        return self.everybody.mean(x)

    def total(self, *numbers: int) -> list[int]:
        """Sums over ranks."""
        return [sum(each) for each in zip(*self.collect(numbers), strict=True)]

    def first_signal(self, received: int, interval: int) -> tuple[int, int]:
        """The largest number of a signal that any rank has received, and the interval that rank 0 proposes."""
        found = self.collect([received, interval])
        return max(signal for signal, _ in found), found[0][1]


class Stopping:
    """Whether all ranks stop after this step: asked for at steps that are the same on all of them.

    Args:
        world: the processes.
        step: steps done.
        received: number of the signal that this process has received, 0 where none; anything else than a signal that
            asks to stop may be told by its own number.
    """

    def __init__(self, world: World, step: int, received: Callable[[], int]) -> None:
        self._world, self._received = world, received
        self._next, self._since, self._begin = step, step, time.monotonic()
        self._is_looking = False
        self.found = 0

    def awaited(self, last: int) -> str:
        """The step after which processes look next, in a run of `last` steps: whoever asks now is heard there."""
        if self._is_looking:
            return "the next step at which all processes look"
        return f"step {min(self._next, last)}, the next at which all processes look"

    def is_stopped(self, step: int) -> bool:
        """To be called after every step, with the steps done."""
        if step < self._next:
            return bool(self.found)
        passed = max(time.monotonic() - self._begin, 1e-6)
        rate = (step - self._since) / passed
        wanted = max(1, min(int(rate * SECONDS_BETWEEN_LOOKS), MOST_STEPS_BETWEEN_LOOKS))
        # a signal from here on may be too late for this look
        self._is_looking = True
        signal, interval = self._world.first_signal(self._received(), wanted)
        self.found = self.found or signal
        self._next, self._since, self._begin = step + interval, step, time.monotonic()
        self._is_looking = False
        return bool(self.found)


def join(
    agents: Callable[[], int],
    counts: tuple[int, ...] | None,
    timeout: timedelta,
    overlap: Overlap = "off",
) -> World:
    """This process's part in what the launcher started; opens torch.distributed.

    Args:
        agents: how many there are in all, which rank 0 alone is asked: others may not see a run's folder.
        counts: agents of each rank; None spreads them evenly.
        timeout: of each message.
        overlap: whether messages travel while gradients are taken.

    Raises:
        AbsentError: another process was not there in time.
        ElsewhereError: rank 0 could not say how many agents there are.
        ValueError: fewer agents than ranks, or counts that do not fit; or what `agents` raises.
    """
    try:
        if not dist.is_initialized():
            _initialize(timeout)
        number = _from_first(agents)
    except dist.DistError as error:
        raise AbsentError(
            f"not all {os.environ[RANKS]} processes were there within {timeout.total_seconds():g} s (--timeout), "
            f"as rank {os.environ['RANK']} noticed: {first_line(error)}"
        ) from error
    try:
        return World(TorchTransport(None, timeout), number, counts, overlap)
    except ValueError as error:
        raise error if counts is None else ValueError(f"--placement: {error}") from error


def _initialize(timeout: timedelta) -> None:
    """Open torch.distributed among the processes that the launcher has started."""
    is_gpu = torch.cuda.is_available()
    if is_gpu:
        torch.cuda.set_device(local_device())
    backend = "cpu:gloo,cuda:nccl" if is_gpu else "gloo"
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    # torchrun may keep the store of an attempt that failed, with addresses where nobody is any more
    store = dist.PrefixStore(f"attempt {os.environ.get(TRIED_BEFORE, '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _from_first(agents: Callable[[], int]) -> int:
    """What rank 0 says, through the store: messages need to know it."""
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 0:
        try:
            number = agents()
        except BaseException:
            store.set(AGENTS, "")
            raise
        store.set(AGENTS, str(number))
        return number
    told = store.get(AGENTS)
    if not told:
        raise ElsewhereError("rank 0 could not say how many agents there are")
    return int(told)


def note_run(path: str) -> None:
    """Leave word of where the run lies, for processes that torchrun starts in place of these."""
    with suppress(RuntimeError):
        _store().set(WHERE, path)


def is_started_again() -> bool:
    """Whether torchrun has started these processes in place of others that failed."""
    return int(os.environ.get(TRIED_BEFORE, "0")) > 0


def noted_run() -> str | None:
    """Where the run lies that processes before these were at; None where nobody left word."""
    with suppress(RuntimeError):
        store = _store()
        if store.check([WHERE]):
            return store.get(WHERE).decode()
    return None


def _store() -> Any:
    """The launcher's store, without the prefix that each attempt has in it."""
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store
