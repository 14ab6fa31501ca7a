"""One kind of message between this rank and its peers: buffers, headers, and what is wrong where something is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from fastsaddle.ranks.header import ALL, ROUND, SIZE, Header, Kind, tensor_of

# what a rank is doing that sends such messages; a step's rows are of several kinds
DOING = {Kind.SLICE: "a mean of all agents (consensus)", Kind.TEXT: "a comparison of texts"}
STEP = "a step"
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

    @property
    def cause(self) -> str:
        """What its sender did, for an error."""
        if self.found is None:
            return "sent what is no message of this version of fastsaddle"
        found, due = (DOING.get(h.kind, STEP) for h in (self.found, self.expected))
        if found != due:
            return f"took {found} where {due} was due"
        return f"sent {self.found} where {self.expected} was due"


class Memory:
    """Bytes that messages lie in, kept by name: mail that is never under way at the same time takes turns with them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Hashable, int, torch.device], torch.Tensor] = {}

    def rows(self, name: Hashable, count: int, width: int, device: torch.device) -> torch.Tensor:
        """Uint8 `[count, width]`, holding anything."""
        key = (name, width, device)
        kept = self._kept.get(key)
        if kept is None or len(kept) < count:
            kept = self._kept[key] = torch.zeros(count, width, dtype=torch.uint8, device=device)
        return kept[:count]


class Mail:
    """Messages of one length to and from all peers, one buffer for each peer and direction.

    Args:
        kind: what they hold.
        sends, receives: peer -> (agent, to) of each message, in order.
        nbytes: bytes of each message without its header.
        device: where buffers lie.
        into: uint8 `[messages received, 128 + nbytes]` to receive into; None makes it.
        out: uint8 `[rows, 128 + nbytes]` to send from; None makes it, with a row for each message.
        rows: peer -> rows of `out` that it is sent; None where they follow each other. Peers may be sent the same ones.

    Attributes:
        out, into: uint8 `[messages, 128 + nbytes]`, or what was given.
        sent: (agent, to) of each message that is sent, in order.
        reads_late: whether headers are not read on the host when they come, as on a GPU.
        bytes_out: bytes that an exchange sends, headers included.
    """

    def __init__(
        self,
        kind: Kind,
        sends: Named,
        receives: Named,
        nbytes: int,
        device: torch.device,
        into: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        rows: Mapping[int, slice] | None = None,
    ) -> None:
        self.kind, self.nbytes = kind, nbytes
        width = SIZE + nbytes
        if out is None:
            count = sum(map(len, sends.values()))
            out = torch.zeros(count, width, dtype=torch.uint8, device=device)
        arriving = sum(map(len, receives.values()))
        if into is None:
            into = torch.zeros(arriving, width, dtype=torch.uint8, device=device)
        self.out, self.into = out, into
        self.sent = [pair for named in sends.values() for pair in named]
        own_rows = slices(sends) if rows is None else rows
        self._out_by_peer = parts(out, {peer: own_rows[peer] for peer in sends})
        self._into_by_peer = parts(into, slices(receives))
        self.bytes_out = sum(part.numel() for part in self._out_by_peer.values())
        self._senders = [peer for peer, named in receives.items() for _ in named]
        self._headers = [self._header(*pair) for named in receives.values() for pair in named]
        self._expected = tensor_of(self._headers).to(device)
        written = torch.zeros(len(out), SIZE, dtype=torch.uint8, device="cpu")
        for peer, named in sends.items():
            written[own_rows[peer]] = tensor_of([self._header(*pair) for pair in named])
        self._written = written.to(device)
        self._rounds = self._written[:, ROUND], self._expected[:, ROUND]
        self.reads_late = device.type != "cpu"
        # where nothing is read on the host: how many were wrong, and those that came, and were due, when one was first
        self.mismatches = torch.zeros((), dtype=torch.int64, device=device)
        self._first = self._expected.clone(), self._expected.clone()

    def _header(self, agent: int, to: int) -> Header:
        return Header(self.kind, 0, agent, to, self.nbytes)

    def address(self, round_: int) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """What is sent and received in an exchange of this number, by peer."""
        number = torch.tensor([round_], dtype=torch.int64, device=self.out.device)
        for headers in self._rounds:
            headers.copy_(number.view(torch.uint8))
        # all of them, as other mail may lie in the same memory
        self.out[:, :SIZE] = self._written
        return self._out_by_peer, self._into_by_peer

    def opened(self, round_: int) -> list[Letter]:
        """Headers that are not the expected ones; where they are read late they are only counted, see `counted`."""
        found = self.into[:, :SIZE]
        if self.reads_late:
            for kept, now in zip(self._first, (found, self._expected), strict=True):
                torch.where(self.mismatches > 0, kept, now, out=kept)
            self.mismatches += (found != self._expected).any(1).sum()
            return []
        if torch.equal(found, self._expected):
            return []
        return self._letters(found, self._expected, round_)

    def counted(self) -> list[Letter]:
        """The first headers that were wrong where they are read late; waits for the GPU. They are given once."""
        if not self.reads_late or not int(self.mismatches):
            return []
        self.mismatches.zero_()
        found, expected = (kept.cpu() for kept in self._first)
        due = Header.of(bytes(expected[0].tolist()))
        assert due is not None
        return self._letters(found, expected, due.round)

    def _letters(self, found: torch.Tensor, expected: torch.Tensor, round_: int) -> list[Letter]:
        wrong = (found != expected).any(1).nonzero().flatten().tolist()
        return [
            Letter(
                self._senders[row],
                Header.of(bytes(found[row].tolist())),
                self._headers[row].at(round_),
            )
            for row in wrong
        ]


def slices(named: Named) -> dict[int, slice]:
    """Rows of each peer's messages where they follow each other."""
    ends = list(accumulate(map(len, named.values())))
    counts = zip(named.items(), ends, strict=True)
    return {peer: slice(end - len(messages), end) for (peer, messages), end in counts}


def parts(rows: torch.Tensor, of: Mapping[int, slice]) -> dict[int, torch.Tensor]:
    """Each peer's rows, flat; none where it has none."""
    found = {peer: rows[part].view(-1) for peer, part in of.items()}
    return {peer: part for peer, part in found.items() if len(part)}


def to_all(agents: Sequence[int]) -> list[tuple[int, int]]:
    """(agent, to) of rows that go to whoever hears the agents."""
    return [(agent, ALL) for agent in agents]
