"""Which rank failed first, as all ranks come to say: from what they see, and what others have noted."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastsaddle.ranks.errors import NotesGone, PeerError
from fastsaddle.ranks.fingerprint import Agreement
from fastsaddle.ranks.transport import Transport

if TYPE_CHECKING:
    from fastsaddle.ranks.placement import Placement

# seconds in which a rank that was only told of a failure, and closed its connections, has left its note
GRACE = 1.0
# seconds that the process whose end takes all notes along waits for others to read them
LINGER = 5.0
PAUSE = 0.02


@dataclass
class Life:
    """What is left behind of an optimizer: the steps that it has done, whether it failed, and the key of its notes.

    Without a key nothing is noted.
    """

    key: str = ""
    steps: Callable[[], int] = field(default=lambda: 0)
    has_failed: bool = False


class Notes:
    """What the ranks of a placement tell each other about failures, beside their messages.

    Who fails, or misses a message, reports whom it missed. A rank that was missed and has itself reported another was
    only the bearer: the one at the end of such a chain is the culprit. The first verdict stays, and all raise it.

    Args:
        placement: who holds which agents.

    Attributes:
        hearers: rank -> agents elsewhere that wait for those of this rank.
        ended: why there are no more exchanges; None while there are.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.hearers: Callable[[int], Sequence[int]] = self._others
        self.ended: BaseException | None = None
        self.agreement = Agreement()
        self._life, self._refusals = Life(), 0

    def join(self, agreement: Agreement, steps: Callable[[], int]) -> None:
        """All ranks have made an optimizer; from now on their end is noted, which others may wait in vain for."""
        self.agreement = agreement
        self._life = Life(agreement.key, steps)
        weakref.finalize(self, leave, self.placement.transport, self._life)

    def error(
        self, rank: int, cause: str, step: int | None = None, noticed: int | None = None
    ) -> PeerError:
        """A failure of a rank, as this one sees it where nothing else is given."""
        here, hosts = self.placement, self.agreement.hosts
        waiting = self.hearers(rank)
        return PeerError(
            rank,
            here.agents_of(rank),
            self._life.steps() if step is None else step,
            cause,
            here.rank if noticed is None else noticed,
            hosts[rank] if hosts else "",
            {agent: here.owner(agent) for agent in waiting},
        )

    def end(self, error: BaseException) -> None:
        """There are no more exchanges, for this reason."""
        self.ended, self._life.has_failed = error, True

    def go_on(self) -> None:
        """All ranks have refused a step: what was noted of it is no verdict on what comes later."""
        self._refusals += 1
        if self._life.key:
            self._life.key = f"{self.agreement.key} {self._refusals}"

    def check(self) -> None:
        """Raise where exchanges have ended.

        Raises:
            PeerError: why.
        """
        if isinstance(self.ended, PeerError):
            raise self.ended
        if self.ended is not None:
            raise self.error(self.placement.rank, said(self.ended))

    def told(self, error: PeerError) -> PeerError:
        """A verdict that is known, by its own step or by a message: the first one that was noted."""
        if not self._life.key:
            return error
        try:
            self._report(error)
            return self._first(error)
        except NotesGone:
            return error

    def found(self, error: PeerError) -> PeerError:
        """The verdict where a message of `error.rank` was missed here."""
        if not self._life.key:
            return error
        try:
            self._report(error)
            return self._first(self._traced(error))
        except NotesGone:
            server = self.placement.transport.server
            if server is None or server == self.placement.rank:
                return error
            # it fell with what went wrong, or is what went wrong
            return self.error(server, error.cause, error.step)

    def _report(self, error: PeerError) -> None:
        self._tell(f"report {self.placement.rank}", record_of(error))

    def _first(self, error: PeerError) -> PeerError:
        return self._read(self._tell("failed", record_of(error)))

    def _traced(self, error: PeerError) -> PeerError:
        """Whoever is at the end of the chain of reports that begins with this one."""
        end = time.monotonic() + GRACE
        seen = {self.placement.rank}
        while time.monotonic() < end:
            if (verdict := self._asked("failed")) is not None:
                return self._read(verdict)
            if (report := self._asked(f"report {error.rank}")) is not None:
                seen.add(error.rank)
                bearer = self._read(report)
                if bearer.rank in seen:
                    # it failed by itself; or it lives, and closed its connection after it had missed one of these
                    return bearer
                error = bearer
            elif (steps := self._asked(f"left {error.rank}")) is not None:
                return self.error(error.rank, f"has left after step {steps}", error.step)
            else:
                time.sleep(PAUSE)
        return error

    def _read(self, record: dict[str, Any]) -> PeerError:
        return self.error(**record)

    def _tell(self, name: str, value: Any) -> Any:
        return tell(self.placement.transport, self._life.key, name, value)

    def _asked(self, name: str) -> Any:
        found = self.placement.transport.asked(f"{self._life.key} {name}")
        return None if found is None else json.loads(found)

    def _others(self, rank: int) -> Sequence[int]:
        own = self.placement.agents_of(rank)
        return [agent for agent in range(self.placement.all_agents) if agent not in own]


def record_of(error: PeerError) -> dict[str, Any]:
    """What of an error is not known elsewhere."""
    return {
        "rank": error.rank,
        "cause": error.cause,
        "step": error.step,
        "noticed": error.noticed_by,
    }


def tell(transport: Transport, key: str, name: str, value: Any) -> Any:
    """Leave a note, or read the one that is there already."""
    return json.loads(transport.tell(f"{key} {name}", json.dumps(value).encode()))


def leave(transport: Transport, life: Life) -> None:
    """An optimizer has ended, with its process or before it: others may still wait for it."""
    try:
        if not life.has_failed:
            tell(transport, life.key, f"left {transport.rank}", life.steps())
        elif transport.server == transport.rank:
            linger(transport, life.key)
    except NotesGone:
        return


def linger(transport: Transport, key: str) -> None:
    """Wait for all others to have reported, since notes go with this process."""
    end = time.monotonic() + LINGER
    missing = {*range(transport.size)}
    # the culprit says nothing
    while len(missing) > 1 and time.monotonic() < end:
        missing -= {rank for rank in missing if transport.asked(f"{key} report {rank}") is not None}
        time.sleep(PAUSE)


def said(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
