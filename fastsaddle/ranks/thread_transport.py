"""A transport between threads of one process: for tests, and for trying things out without launching anything."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from fastsaddle.ranks.errors import TransportError

Result = TypeVar("Result")


class Office:
    """What the threads of one group share: a queue for each ordered pair of them, and notes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.boxes = {
            (a, b): queue.SimpleQueue[torch.Tensor | None]()
            for a in range(size)
            for b in range(size)
        }
        self.notes: dict[str, bytes] = {}
        self.lock = threading.Lock()


class ThreadTransport:
    """A transport between threads of one process: for tests, and for trying things without launching processes.

    Args:
        office: what the threads of a group share; `group` makes it.
        rank: number of this thread.
        timeout: seconds after which a missing message is an error.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> a, b = fs.ranks.ThreadTransport.group(2)
        >>> sent, received = torch.ones(3), torch.zeros(3)
        >>> pending = a.exchange({1: sent}, {})
        >>> b.exchange({}, {0: received}).wait()
        >>> received
        tensor([1., 1., 1.])
    """

    takes_short = True
    server = None
    stopped = 0.0
    text_device = torch.device("cpu")

    def __init__(self, office: Office, rank: int, timeout: float = 60.0) -> None:
        self.office, self.rank, self.size, self.timeout = office, rank, office.size, timeout
        self.largest = 0

    @classmethod
    def group(cls, size: int, timeout: float = 60.0) -> list[ThreadTransport]:
        """The ends of a new group of threads, one for each.

        Args:
            size: number of threads.
            timeout: seconds after which a missing message is an error.
        """
        office = Office(size)
        return [cls(office, rank, timeout) for rank in range(size)]

    def exchange(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]
    ) -> Arrivals:
        for peer, buffer in sends.items():
            self.office.boxes[self.rank, peer].put(buffer.detach().clone())
        return Arrivals(self, receives)

    def tell(self, key: str, value: bytes) -> bytes:
        with self.office.lock:
            return self.office.notes.setdefault(key, value)

    def asked(self, key: str) -> bytes | None:
        with self.office.lock:
            return self.office.notes.get(key)

    def take(self, box: queue.SimpleQueue[torch.Tensor | None], peer: int) -> torch.Tensor:
        """The next message in a queue.

        Args:
            box: the queue.
            peer: the rank that fills it.

        Raises:
            TransportError: nothing came in time, or the other thread is gone.
        """
        try:
            value = box.get(timeout=self.timeout)
        except queue.Empty:
            raise TransportError(peer, f"nothing came for {self.timeout:g} s") from None
        if value is None:
            # for whoever asks again
            box.put(None)
            raise TransportError(peer, "connection closed")
        return value

    def close(self) -> None:
        """Tell all others that this thread is gone, as the connections of a killed process do."""
        for peer in range(self.size):
            self.office.boxes[self.rank, peer].put(None)


class Arrivals:
    """Messages that other threads have sent, or will."""

    def __init__(self, here: ThreadTransport, receives: Mapping[int, torch.Tensor]) -> None:
        self._here, self._receives = here, dict(receives)

    def wait(self) -> None:
        while self._receives:
            peer, buffer = self._receives.popitem()
            came = self._here.take(self._here.office.boxes[peer, self._here.rank], peer)
            flat = buffer.view(-1)
            if came.numel() > flat.numel():
                raise TransportError(
                    peer, f"sent {came.numel()} numbers where {flat.numel()} were expected"
                )
            flat[: came.numel()].copy_(came.view(-1))


def run_in_threads(
    size: int, work: Callable[[ThreadTransport], Result], timeout: float = 60.0
) -> list[Result | BaseException]:
    """Call `work` in `size` threads, each with its end of a new group; their results, or what they raised, by rank.

    Args:
        size: how many threads.
        work: what each does; draws from torch's global generator differ from run to run there.
        timeout: seconds until a message that does not come is an error.
    """
    found: list[Result | BaseException] = [RuntimeError("did not run")] * size

    def run(here: ThreadTransport) -> None:
        try:
            found[here.rank] = work(here)
        except BaseException as error:
            found[here.rank] = error
        finally:
            here.close()

    threads = [
        threading.Thread(target=run, args=(here,), daemon=True)
        for here in ThreadTransport.group(size, timeout)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
