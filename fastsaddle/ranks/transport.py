"""The contract of a transport: buffers between processes, and nothing about what they hold."""

from collections.abc import Mapping
from typing import Protocol

import torch


class Pending(Protocol):
    """Messages on their way, as `Transport.exchange` returns them."""

    def wait(self) -> None:
        """Return when all have been sent and have arrived; a second call does nothing.

        Raises:
            TransportError: one did not arrive; it names the peer. Another call goes on with the messages of other
                peers.
        """


class Transport(Protocol):
    """Moves buffers between processes, whatever they hold. Your own is any class with these members.

    Attributes:
        rank: number of this process.
        size: number of processes.
        takes_short: whether a message may be shorter than the buffer that receives it.
        server: the rank whose process stores all notes; None if no rank does.
        text_device: the device of buffers that carry text.
        largest: most bytes that one peer sends at once; kept here by those who send.
        stopped: seconds for which this process was stopped lately, so that others may have waited in vain.
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
        """Send to and receive from other ranks, one contiguous buffer each way for each of them, all at once.

        Args:
            sends: for each rank what it is sent; it must stay as it is until `wait` returns.
            receives: for each rank the buffer that is overwritten; as large as what that rank sends, or larger if
                `takes_short`.

        Returns:
            The messages on their way; call `wait` on them.
        """
        ...

    def tell(self, key: str, value: bytes) -> bytes:
        """Leave a note that all ranks can read; the first one under a key stays.

        Args:
            key: name of the note.
            value: its text.

        Returns:
            The note that stays: the first one.

        Raises:
            NotesGone: what holds the notes does not answer.
        """
        ...

    def asked(self, key: str) -> bytes | None:
        """The note under a key; None if nobody has left one.

        Args:
            key: name of the note.

        Raises:
            NotesGone: what holds the notes does not answer.
        """
        ...
