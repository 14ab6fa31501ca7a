"""This rank's exchanges with others: counted, checked, and ended together where one fails."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch

from fastsaddle.ranks.errors import PeerError, TransportError
from fastsaddle.ranks.header import ALL, SIZE, Header, Kind, tensor_of
from fastsaddle.ranks.mail import Letter, Mail
from fastsaddle.ranks.placement import Placement


class Peers:
    """All exchanges of one optimizer, in one order for all ranks.

    Whoever fails sends its next message as a header alone, which says so, and raises. Whoever is told passes it on in
    one more exchange, with everybody but those who told it, and raises too. So everybody stops soon, by the same cause.

    Args:
        placement: who holds which agents.
        who: ranks that this one exchanges messages with.

    Attributes:
        round: exchanges done.
        bytes_on_wire: what has left this process, headers included.
        ended: why there are no more exchanges; None while there are.
        room: bytes that one peer sends at once at most, headers included.
    """

    def __init__(self, placement: Placement, who: Iterable[int]) -> None:
        self.placement, self.who = placement, tuple(sorted(who))
        self.round, self.bytes_on_wire, self.room = 0, 0, 0
        self.ended: BaseException | None = None
        self._transport = placement.transport

    def exchange(self, mail: Mail) -> None:
        """Send what lies in `mail.out`, and fill `mail.into`.

        Raises:
            PeerError: a peer failed, now or before.
        """
        self.check()
        sends, receives = mail.address(self.round)
        self.room = max(self.room, *(r.numel() for r in receives.values()), 0)
        try:
            self._transport.exchange(sends, receives).wait()
        except TransportError as error:
            raise self._lost(error) from error
        except BaseException as error:
            self.ended = error
            raise
        self.bytes_on_wire += mail.bytes_out
        letters = mail.opened(self.round)
        self.round += 1
        if letters:
            raise self._read(letters)

    def check(self) -> None:
        """Raise where exchanges have ended.

        Raises:
            PeerError: why.
        """
        if isinstance(self.ended, PeerError):
            raise self.ended
        if self.ended is not None:
            raise self._error(self.placement.rank, self.round, said(self.ended))

    def withdraw(self, error: BaseException) -> None:
        """A step has failed here before its next exchange: take part in that one with the news alone."""
        if self.ended is not None or not self.who:
            return
        self.ended = error
        me = self.placement.rank
        self._tell(self._error(me, self.round, said(error)), ())

    def _lost(self, error: TransportError) -> PeerError:
        """A message did not come or go: what is to be raised, after all others were told."""
        rank = error.peer if error.peer >= 0 else self.placement.rank
        first = self._noted(self._error(rank, self.round, error.cause))
        # those that have got this exchange's messages wait in the next one
        self.round += 1
        self._tell(first, (error.peer,))
        return first

    def _read(self, letters: list[Letter]) -> PeerError:
        """Headers were not those expected: what is to be raised, after all others were told."""
        told = {x.peer: x.found for x in letters if x.found is not None and x.found.status}
        for header in told.values():
            first = self._noted(
                self._error(header.origin, header.since, header.cause, header.noticed)
            )
            self._tell(first, told)
            return first
        letter = letters[0]
        cause = f"sent {letter.found} where {letter.expected} was due"
        first = self._error(letter.peer, self.round - 1, cause)
        self._tell(first, ())
        return first

    def _error(self, rank: int, round_: int, cause: str, noticed: int | None = None) -> PeerError:
        noticed = self.placement.rank if noticed is None else noticed
        return PeerError(rank, self.placement.agents_of(rank), round_, cause, noticed)

    def _noted(self, error: PeerError) -> PeerError:
        """What the first one to notice has noted; this error where it is the first."""
        fields = {"rank": error.rank, "round": error.step, "cause": error.cause}
        note = json.dumps({**fields, "noticed": error.noticed_by})
        found = json.loads(self._transport.tell("failed", note.encode()))
        return self._error(found["rank"], found["round"], found["cause"], found["noticed"])

    def _tell(self, error: PeerError, informed: Iterable[int]) -> None:
        """One more exchange, in which this rank sends the news alone, with all peers but the informed."""
        self.ended = error if self.ended is None else self.ended
        others = [peer for peer in self.who if peer not in set(informed)]
        if not self._transport.takes_short or not others:
            return
        header = Header(
            Kind.ROW,
            self.round,
            self.placement.first_agent,
            ALL,
            0,
            1,
            error.rank,
            error.step,
            error.noticed_by,
            error.cause,
        )
        news = tensor_of([header])[0]
        # memory that is never touched costs nothing
        room = max(self.room, SIZE)
        receives = {peer: torch.empty(room, dtype=torch.uint8, device="cpu") for peer in others}
        try:
            self._transport.exchange(dict.fromkeys(others, news), receives).wait()
        except TransportError:
            # those who are gone need no news
            return


def said(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
