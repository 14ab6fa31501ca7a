"""The contract of a transport: buffers between processes, and nothing about what they hold."""

from collections.abc import Mapping
from typing import Protocol

import torch


class Pending(Protocol):
    """Messages on their way."""

    def wait(self) -> None:
        """Return when all have been sent and have arrived; a second call does nothing.

        Raises:
            TransportError: one did not, naming the peer. Another call goes on with those of other peers.
        """


class Transport(Protocol):
    """Moves buffers between `size` processes, of which this is number `rank`.

    Attributes:
        rank, size: which one this is, and of how many.
        takes_short: whether a message may be shorter than the buffer that it is received into.
        server: the rank with whose process all notes go; None where no rank's do.
        text_device: where a buffer may lie that says something to all ranks.
        largest: bytes that one peer sends at once at most, kept by those who send over it.
        stopped: seconds that this process was stopped for, not long ago, so that others may have waited in vain.
    """

    rank: int
    size: int
    takes_short: bool
    server: int | None
    text_device: torch.device
    largest: int

    @property
    def stopped(self) -> float: ...

    def exchange(
        self, sends: Mapping[int, torch.Tensor], receives: Mapping[int, torch.Tensor]
    ) -> Pending:
        """Send to and receive from peers, one contiguous buffer each way for each of them, all at once.

        Args:
            sends: peer rank -> what it is sent; must stay as it is until `wait` returns.
            receives: peer rank -> what is overwritten; as large as what that peer sends, or larger where `takes_short`.
        """

    def tell(self, key: str, value: bytes) -> bytes:
        """Leave a note that all can read: the first one under a key stays, and is returned to whoever comes later.

        Raises:
            NotesGone: what holds them does not answer.
        """

    def asked(self, key: str) -> bytes | None:
        """The note under a key; None where nobody has left one. Raises NotesGone as `tell` does."""
