"""A transport over torch.distributed: one batch of sends and receives an exchange, on gloo or NCCL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fastsaddle.ranks.errors import TransportError

TIMEOUT = timedelta(seconds=120)


class TorchTransport:
    """Buffers over a process group, which is the user's: it is neither made nor destroyed here.

    Args:
        group: the process group; None is the default one, of all processes.
        timeout: how long a message may take.

    Raises:
        RuntimeError: torch.distributed has not been initialized.
        ValueError: this process is not in the group.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, timeout: timedelta = TIMEOUT
    ) -> None:
        if not dist.is_initialized():
            raise RuntimeError(
                'agents over processes need torch.distributed: call dist.init_process_group("gloo") '
                "(or nccl) first, and launch with torchrun"
            )
        self.group, self.timeout = group, timeout
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("process_group must hold this process, got one that does not")
        self.backend = str(dist.get_backend(group))
        # NCCL's messages must be as long as the buffers that they are received into
        self.takes_short = "nccl" not in self.backend
        self._peers = [
            peer if group is None else dist.get_global_rank(group, peer)
            for peer in range(self.size)
        ]

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
        if not work:
            return Batch([], self.timeout)
        try:
            pending = dist.batch_isend_irecv([one for _, one in work])
        except RuntimeError as error:
            raise TransportError(-1, first_line(error)) from error
        if len(pending) != len(work):
            # NCCL's batch is one piece of work
            return Batch([(-1, one) for one in pending], self.timeout)
        # what is received first: it says what is wrong where something is
        both = [(p, w, one.op is dist.isend) for (p, one), w in zip(work, pending, strict=True)]
        both.sort(key=lambda entry: entry[2])
        return Batch([(peer, w) for peer, w, _ in both], self.timeout)

    def gather(self, value: bytes) -> list[bytes]:
        device = torch.device("cuda" if self.backend == "nccl" else "cpu")
        try:
            length = torch.tensor([len(value)], dtype=torch.int64, device=device)
            lengths = [torch.zeros_like(length) for _ in range(self.size)]
            dist.all_gather(lengths, length, self.group)
            longest = max(1, max(int(n) for n in lengths))
            mine = torch.zeros(longest, dtype=torch.uint8, device=device)
            if value:
                mine[: len(value)] = torch.frombuffer(bytearray(value), dtype=torch.uint8)
            found = [torch.zeros_like(mine) for _ in range(self.size)]
            dist.all_gather(found, mine, self.group)
        except RuntimeError as error:
            raise TransportError(-1, first_line(error)) from error
        return [bytes(row[: int(n)].cpu().numpy()) for row, n in zip(found, lengths, strict=True)]

    def tell(self, key: str, value: bytes) -> bytes:
        # the store may be gone with the process that served it
        with suppress(RuntimeError):
            store = dist.distributed_c10d._get_default_store()
            held: bytes = store.compare_set(f"fastsaddle/{key}", "", value.decode())
            return held or value
        return value


class Batch:
    """The work of one exchange, with the peer of each piece."""

    def __init__(self, work: list[tuple[int, Any]], timeout: timedelta) -> None:
        self._work, self._timeout = work, timeout

    def wait(self) -> None:
        work, self._work = self._work, []
        end = time.monotonic() + self._timeout.total_seconds()
        for peer, one in work:
            left = max(end - time.monotonic(), 0.001)
            try:
                one.wait(timedelta(seconds=left))
            except RuntimeError as error:
                raise TransportError(peer, first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What an error of torch.distributed says, without its stack."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
