"""A transport that delays and loses messages on purpose, for tests."""

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
        delay: seconds that each exchange waits at most before it begins; how long is drawn.
        fails_at: number of the exchange, from 0 on, in which this rank's messages are lost; None loses none.
        seed: of what is drawn.
    """

    def __init__(
        self, inner: Transport, delay: float = 0.0, fails_at: int | None = None, seed: int = 0
    ) -> None:
        self.inner, self.rank, self.size = inner, inner.rank, inner.size
        self.takes_short, self.server = inner.takes_short, inner.server
        self.delay, self.fails_at, self.done = delay, fails_at, 0
        self._random = random.Random(f"{seed} {inner.rank}")

    def exchange(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]
    ) -> Pending:
        number, self.done = self.done, self.done + 1
        if self.delay:
            time.sleep(self._random.random() * self.delay)
        if self.fails_at is not None and number >= self.fails_at:
            raise TransportError(-1, "messages are lost on purpose")
        return self.inner.exchange(sends, receives)

    def gather(self, value: bytes) -> list[bytes]:
        return self.inner.gather(value)

    def tell(self, key: str, value: bytes) -> bytes:
        return self.inner.tell(key, value)

    def asked(self, key: str) -> bytes | None:
        return self.inner.asked(key)
