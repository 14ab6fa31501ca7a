"""A transport that delays, reorders and loses messages on purpose, for tests."""

import random
import time
from collections.abc import Mapping

import torch

from fastsaddle.ranks.errors import TransportError
from fastsaddle.ranks.transport import Pending, Transport


class FaultyTransport:
    """Another transport with faults added on purpose, for tests: delays, changed order, lost messages.

    Args:
        inner: what carries the messages.
        delay: largest pause, in seconds, before each message is sent and before it is waited for. The pauses and the
            order of peers are drawn.
        fails_at: number of the exchange, from 0 on, from which this rank's messages are lost; None loses none.
        seed: seed of the draws.

    Example:
        >>> import fastsaddle as fs
        >>> ends = fs.ranks.ThreadTransport.group(2)
        >>> slow = fs.ranks.FaultyTransport(ends[0], delay=0.01, seed=1)
        >>> placement = fs.Placement((1, 1), slow)
    """

    def __init__(
        self, inner: Transport, delay: float = 0.0, fails_at: int | None = None, seed: int = 0
    ) -> None:
        self.inner, self.rank, self.size = inner, inner.rank, inner.size
        self.takes_short, self.server = inner.takes_short, inner.server
        self.text_device = inner.text_device
        self.largest = inner.largest
        self.delay, self.fails_at, self.done = delay, fails_at, 0
        self._random = random.Random(f"{seed} {inner.rank}")

    @property
    def stopped(self) -> float:
        return self.inner.stopped

    def exchange(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]
    ) -> Pending:
        number, self.done = self.done, self.done + 1
        if self.fails_at is not None and number >= self.fails_at:
            raise TransportError(-1, "messages are lost on purpose")
        pending: list[Pending] = []
        for peer in self._shuffled(sends):
            self.pause()
            pending.append(self.inner.exchange({peer: sends[peer]}, {}))
        pending += [
            self.inner.exchange({}, {peer: receives[peer]}) for peer in self._shuffled(receives)
        ]
        return Several(self, pending)

    def _shuffled(self, peers: Mapping[int, torch.Tensor]) -> list[int]:
        return self._random.sample(sorted(peers), len(peers))

    def pause(self) -> None:
        """Wait for a drawn time, at most `delay`."""
        if self.delay:
            time.sleep(self._random.random() * self.delay)

    def tell(self, key: str, value: bytes) -> bytes:
        return self.inner.tell(key, value)

    def asked(self, key: str) -> bytes | None:
        return self.inner.asked(key)


class Several:
    """Messages of one exchange, waited for one after the other."""

    def __init__(self, here: FaultyTransport, pending: list[Pending]) -> None:
        self._here, self._pending = here, pending

    def wait(self) -> None:
        while self._pending:
            self._here.pause()
            self._pending.pop().wait()
