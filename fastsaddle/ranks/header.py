"""What precedes every message: 128 bytes that say what it is, and whether its sender goes on."""

from __future__ import annotations

import builtins
import struct
from dataclasses import dataclass, replace
from enum import IntEnum

import torch

SIZE = 128
# columns of float32 that it takes
HEAD = SIZE // 4
# where the round lies in it
ROUND = slice(8, 16)
MAGIC, VERSION = 0x64617366, 1
# to everybody
ALL = -1
_FORM = struct.Struct("<IHHqiiIQIiqi")
# characters of a cause
MOST_SAID = SIZE - _FORM.size


class Kind(IntEnum):
    """What a message holds: a row, a compressor's bytes, an edge's row, a slice for a mean, text, a row sent early.

    Or nothing but its header: something has changed on a rank, or a step was refused there.
    """

    ROW = 0
    PAYLOAD = 1
    EDGE = 2
    SLICE = 3
    TEXT = 4
    AHEAD = 5
    CHANGE = 6
    REFUSAL = 7


@dataclass(frozen=True)
class Header:
    """One message's header.

    Attributes:
        kind: what it holds.
        round: number of its exchange, counted alike by all ranks.
        agent, to: who sends it, and to whom; `ALL` is whoever hears the agent.
        nbytes: bytes that follow.
        status: 0, or 1 where a step has failed: nothing follows then.
        origin: the rank where it failed first, with the steps done by then (`since`) and the cause.
        noticed: the rank that noticed it.
        begun: steps that the sender has begun, where nothing follows.
    """

    kind: Kind
    round: int
    agent: int
    to: int
    nbytes: int
    status: int = 0
    origin: int = -1
    since: int = -1
    noticed: int = -1
    cause: str = ""
    begun: int = 0

    def bytes(self) -> bytes:
        """The 128 bytes, little-endian."""
        route = (MAGIC, VERSION, self.kind, self.round, self.agent, self.to)
        told = (self.status, self.origin, self.since, self.noticed)
        fields = _FORM.pack(*route, self.begun % 2**32, self.nbytes, *told)
        cause = self.cause.encode("ascii", "replace")[:MOST_SAID]
        return fields + cause.ljust(MOST_SAID, b"\0")

    @classmethod
    def of(cls, raw: builtins.bytes) -> Header | None:
        """What 128 bytes say; None where they are no header of this version."""
        magic, version, *numbers = _FORM.unpack_from(raw)
        kind, round_, agent, to, begun, nbytes, status, origin, since, noticed = numbers
        if magic != MAGIC or version != VERSION or kind not in list(Kind):
            return None
        cause = raw[_FORM.size : SIZE].rstrip(b"\0").decode("ascii", "replace")
        told = (status, origin, since, noticed, cause, begun)
        return cls(Kind(kind), round_, agent, to, nbytes, *told)

    def at(self, round_: int) -> Header:
        """The same in another exchange."""
        return replace(self, round=round_)


def tensor_of(headers: list[Header]) -> torch.Tensor:
    """Headers as uint8 `[headers, 128]` on the CPU."""
    raw = bytearray(b"".join(header.bytes() for header in headers))
    if not raw:
        return torch.zeros(0, SIZE, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(raw, dtype=torch.uint8).reshape(-1, SIZE).clone()
