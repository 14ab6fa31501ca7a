"""One kind of message between this rank and its peers: buffers, headers, and what is wrong where something is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fastsaddle.ranks.header import ALL, SIZE, Header, Kind, tensor_of, write_round

# (agent, to) of each message, by peer
Named = Mapping[int, Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Letter:
    """A header that is not the expected one.

    Attributes:
        peer: the rank that sent it.
        found: what came; None where it was no header.
        expected: what should have.
    """

    peer: int
    found: Header | None
    expected: Header


class Mail:
    """Messages of one length to and from all peers, one buffer for each peer and direction.

    Args:
        kind: what they hold.
        sends, receives: peer -> (agent, to) of each message, in order.
        nbytes: bytes of each message without its header.
        into: uint8 `[messages received, 128 + nbytes]` to receive into; None makes it.
        device: where buffers lie.

    Attributes:
        out, into: uint8 `[messages, 128 + nbytes]`.
    """

    def __init__(
        self,
        kind: Kind,
        sends: Named,
        receives: Named,
        nbytes: int,
        device: torch.device,
        into: torch.Tensor | None = None,
    ) -> None:
        self.kind, self.nbytes = kind, nbytes
        width = SIZE + nbytes
        count = sum(map(len, sends.values()))
        self.out = torch.zeros(count, width, dtype=torch.uint8, device=device)
        arriving = sum(map(len, receives.values()))
        if into is None:
            into = torch.zeros(arriving, width, dtype=torch.uint8, device=device)
        self.into = into
        self._out_by_peer, self._into_by_peer = split(self.out, sends), split(into, receives)
        self._senders = [peer for peer, named in receives.items() for _ in named]
        self._headers = [self._header(*pair) for named in receives.values() for pair in named]
        self._expected = tensor_of(self._headers).to(device)
        written = tensor_of([self._header(*pair) for named in sends.values() for pair in named])
        self.out[:, :SIZE] = written.to(device)
        # counted where nothing is read on the host
        self.mismatches = torch.zeros((), dtype=torch.int64, device=device)

    def _header(self, agent: int, to: int) -> Header:
        return Header(self.kind, 0, agent, to, self.nbytes)

    def address(self, round_: int) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """What is sent and received in an exchange of this number, by peer."""
        write_round(self.out, round_)
        write_round(self._expected, round_)
        return self._out_by_peer, self._into_by_peer

    @property
    def bytes_out(self) -> int:
        """Bytes that an exchange sends, headers included."""
        return self.out.numel()

    def opened(self, round_: int) -> list[Letter]:
        """Headers that are not the expected ones; on a GPU they are counted in `mismatches` instead."""
        found = self.into[:, :SIZE]
        if found.device.type != "cpu":
            self.mismatches += (found != self._expected).any(1).sum()
            return []
        if torch.equal(found, self._expected):
            return []
        wrong = (found != self._expected).any(1).nonzero().flatten().tolist()
        return [
            Letter(
                self._senders[row],
                Header.of(bytes(found[row].tolist())),
                self._headers[row].at(round_),
            )
            for row in wrong
        ]


def split(rows: torch.Tensor, named: Named) -> dict[int, torch.Tensor]:
    """Rows of each peer's messages, flat."""
    parts = rows.split([len(messages) for messages in named.values()]) if named else ()
    return {peer: part.view(-1) for peer, part in zip(named, parts, strict=True) if len(part)}


def to_all(agents: Sequence[int]) -> list[tuple[int, int]]:
    """(agent, to) of rows that go to whoever hears the agents."""
    return [(agent, ALL) for agent in agents]
