"""A transport that delays, reorders and loses messages on purpose, for tests."""

import random
import time
from collections.abc import Mapping

import torch

from fastsaddle.ranks.errors import TransportError
from fastsaddle.ranks.transport import Pending, Transport


class FaultyTransport:
    """Another transport with faults.

    Args:
        inner: what carries the messages.
        delay: seconds that pass at most before each message is sent, and before it is waited for; how long is drawn,
            and so is the order of peers.
        fails_at: number of the exchange, from 0 on, in which this rank's messages are lost; None loses none.
        seed: of what is drawn.
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
        """Let some time pass."""
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
