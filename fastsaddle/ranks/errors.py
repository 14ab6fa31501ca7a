"""What can go wrong between processes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class TransportError(RuntimeError):
    """A message to or from another rank did not arrive.

    Args:
        peer: the rank at the other end; -1 if it is not known.
        cause: what the transport said.

    Attributes:
        peer: as given.
        cause: as given.
    """

    def __init__(self, peer: int, cause: str) -> None:
        super().__init__(f"rank {peer}: {cause}" if peer >= 0 else cause)
        self.peer, self.cause = peer, cause


class NotesGone(RuntimeError):
    """Notes can be neither left nor read: what held them does not answer."""


class PeerError(RuntimeError):
    """A step over several processes ended because one of them failed; its optimizer takes no further step.

    Parameters are as they were before the step; local momentum and public copies may have moved. Go on from a
    checkpoint. `fs.ranks` raises it; the arguments become attributes.

    Args:
        rank: the rank that failed first, as far as is known.
        agents: numbers of the agents that it holds.
        step: number of steps that had been done when the failure was noticed.
        cause: what happened there.
        noticed_by: the rank that noticed it first.
        host: the machine of the failed rank; empty if it is not known.
        waiting: agents elsewhere that needed its messages, each with its rank.

    Attributes:
        rank: as given; the others likewise.
    """

    def __init__(
        self,
        rank: int,
        agents: range,
        step: int,
        cause: str,
        noticed_by: int,
        host: str = "",
        waiting: Mapping[int, int] | None = None,
    ) -> None:
        self.rank, self.agents, self.step, self.host = rank, agents, step, host
        self.cause, self.noticed_by, self.waiting = cause, noticed_by, dict(waiting or {})
        where = f"rank {rank}, host {host}" if host else f"rank {rank}"
        super().__init__(
            f"step {step}: nothing from {named(agents)} ({where}): {cause}; {self._waits()}"
            f"noticed by rank {noticed_by}"
        )

    def _waits(self) -> str:
        if not self.waiting:
            return ""
        ranks = sorted({*self.waiting.values()})
        verb, s = ("waits", "") if len(self.waiting) == 1 else ("wait", "s")
        owners = f"rank{'s' if len(ranks) > 1 else ''} {listed(ranks)}"
        return f"agent{s} {listed(self.waiting)} ({owners}) {verb} for it; "

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        told = (self.rank, self.agents, self.step, self.cause, self.noticed_by)
        return type(self), (*told, self.host, self.waiting)


# causes of a rank that ended as it was told to, or died
GONE = "has left", "connection closed"


@contextmanager
def called_by_all(call: str) -> Iterator[None]:
    """A call that every rank must make: where one is gone instead, the error says so too."""
    try:
        yield
    except PeerError as error:
        if not error.cause.startswith(GONE):
            raise
        cause = f"{error.cause}, but every rank must call {call}"
        told = (error.rank, error.agents, error.step, cause, error.noticed_by)
        raise PeerError(*told, error.host, error.waiting) from error


# numbers of a list that are shown
SHOWN = 6


def listed(numbers: Iterable[int]) -> str:
    """Numbers in words, such as "1, 2 and 5"; of many the first ones."""
    words = [str(number) for number in numbers]
    if len(words) > SHOWN:
        return f"{', '.join(words[:SHOWN])} and {len(words) - SHOWN} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def named(agents: range) -> str:
    """Agents in words, such as "agent 7", "agents 4 and 5" or "agents 4 to 7"."""
    if len(agents) in (1, 2):
        return f"agent{'s' if len(agents) > 1 else ''} {listed(agents)}"
    return f"agents {agents[0]} to {agents[-1]}" if agents else "no agent"
