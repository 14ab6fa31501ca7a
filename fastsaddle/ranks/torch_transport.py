"""A transport over torch.distributed: one batch of sends and receives an exchange, on gloo or NCCL."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from fastsaddle.ranks.errors import NotesGone, TransportError
from fastsaddle.ranks.pulse import Pulse

LOG = logging.getLogger(__name__)

TIMEOUT = timedelta(seconds=120)
# seconds that the store may take to answer
ANSWER = 2.0
# what gloo says where the other end is gone
CLOSED = ("onnection closed", "onnection reset", "roken pipe", "pair closure", "onnection refused")

Result = TypeVar("Result")


class TorchTransport:
    """Messages over a process group of torch.distributed, on gloo or NCCL.

    The group is yours: it is neither made nor destroyed here. `fs.place` makes this transport.

    Args:
        group: the process group; None is the default one, of all processes.
        timeout: how long a message may take.

    Raises:
        RuntimeError: torch.distributed has not been initialized.
        ValueError: this process is not in the group.

    Example:
        >>> import torch.distributed as dist
        >>> import fastsaddle as fs
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> fs.ranks.TorchTransport().size
        1
        >>> dist.destroy_process_group()
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, timeout: timedelta = TIMEOUT
    ) -> None:
        if not dist.is_initialized():
            raise RuntimeError(
                'agents over processes need torch.distributed: call dist.init_process_group("gloo") '
                "(or nccl) first, and launch with torchrun"
            )
        self.group, self.timeout, self.largest = group, timeout, 0
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("process_group must hold this process, got one that does not")
        backends = backends_of(group)
        # NCCL's messages must be as long as the buffers that they are received into
        self.takes_short = "nccl" not in backends.values()
        # a group of NCCL's alone carries nothing that lies on the CPU
        self.text_device = torch.device("cpu" if "cpu" in backends else next(iter(backends)))
        self._peers = [
            peer if group is None else dist.get_global_rank(group, peer)
            for peer in range(self.size)
        ]
        # kept for what is to be told when the process group has been destroyed
        self._store = dist.distributed_c10d._get_default_store()
        self.server = served_by(self._store, self._peers)
        self._pulse = Pulse(timeout.total_seconds())
        LOG.info(
            "rank %d of %d is connected by %s, a message may take %s",
            self.rank,
            self.size,
            " and ".join(f"{name} for {kind}" for kind, name in backends.items()),
            timeout,
        )

    @property
    def stopped(self) -> float:
        return self._pulse.stopped

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchTransport:
        return self

    def exchange(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]
    ) -> Batch:
        work: list[tuple[int, dist.P2POp]] = []
        for peer in sorted({*sends, *receives}):
            for op, buffers in ((dist.isend, sends), (dist.irecv, receives)):
                if peer in buffers:
                    one = dist.P2POp(op, buffers[peer], self._peers[peer], self.group)
                    work.append((peer, one))
        if all(one.tensor.device.type == "cpu" for _, one in work):
            # what is received first: it says what is wrong where something is
            pending = sorted(
                ((peer, begun(one), one.op is dist.isend) for peer, one in work), key=itemgetter(2)
            )
            return Batch([(peer, one) for peer, one, _ in pending], self.timeout)
        try:
            # one group of NCCL's, in which nothing waits for anything else
            together = dist.batch_isend_irecv([one for _, one in work])
        except RuntimeError as error:
            raise TransportError(-1, cause_of(error, self.timeout)) from error
        return Batch([(-1, one) for one in together], self.timeout)

    def tell(self, key: str, value: bytes) -> bytes:
        def told() -> bytes:
            return self._store.compare_set(f"fastsaddle/{key}", "", value.decode()) or value

        return in_time(told)

    def asked(self, key: str) -> bytes | None:
        name = f"fastsaddle/{key}"
        return in_time(lambda: self._store.get(name) if self._store.check([name]) else None)


class Refused:
    """A message that could not even begin: its connection was closed before."""

    def __init__(self, error: RuntimeError) -> None:
        self._error = error

    def wait(self, timeout: timedelta) -> None:
        raise self._error


def begun(one: dist.P2POp) -> Any:
    """A message on its way, apart from those to and from others."""
    try:
        return one.op(one.tensor, one.peer, one.group)
    except RuntimeError as error:
        return Refused(error)


class Batch:
    """The work of one exchange, with the peer of each piece; all of it has the same time, from the first wait on."""

    def __init__(self, work: list[tuple[int, Any]], timeout: timedelta) -> None:
        self._work, self._timeout = work[::-1], timeout
        self._end: float | None = None

    def wait(self) -> None:
        if self._end is None:
            self._end = time.monotonic() + self._timeout.total_seconds()
        while self._work:
            peer, one = self._work.pop()
            left = max(self._end - time.monotonic(), 0.001)
            try:
                one.wait(timedelta(seconds=left))
            except RuntimeError as error:
                raise TransportError(peer, cause_of(error, self._timeout)) from error


def in_time(call: Callable[[], Result]) -> Result:
    """What a call to the store returns; a process that serves it and was stopped would never answer.

    Raises:
        NotesGone: it failed, or took longer than `ANSWER`.
    """
    found: queue.SimpleQueue[tuple[Result | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put((call(), None))
        except Exception as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = found.get(timeout=ANSWER)
    except queue.Empty:
        raise NotesGone(f"the store has not answered for {ANSWER:g} s") from None
    if error is not None:
        raise NotesGone(first_line(error)) from error
    return cast(Result, result)


def backends_of(group: dist.ProcessGroup | None) -> dict[str, str]:
    """The backend of each type of device that a group carries, such as {"cpu": "gloo", "cuda": "nccl"}."""
    # `get_backend` says "undefined" where torch has chosen
    named = str(dist.get_backend_config(group))
    return dict(part.split(":", 1) for part in named.split(","))


def served_by(store: Any, peers: Sequence[int]) -> int | None:
    """Which of `peers`, global ranks, serves a store; None where none does."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    # under torchrun its agent may
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    is_rank_0 = isinstance(store, dist.TCPStore) and not by_agent
    return peers.index(0) if is_rank_0 and 0 in peers else None


def cause_of(error: BaseException, timeout: timedelta) -> str:
    """What an error of a message says, in the words of all transports."""
    text = str(error)
    if "imed out" in text:
        return f"nothing came for {timeout.total_seconds():g} s"
    if any(words in text for words in CLOSED):
        return "connection closed"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """What an error of torch.distributed says, without its stack."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
