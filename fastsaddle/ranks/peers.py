"""This rank's exchanges with others: counted, checked, and ended together where one fails."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import torch

from fastsaddle.ranks.errors import PeerError, TransportError
from fastsaddle.ranks.header import ALL, SIZE, Header, Kind, tensor_of
from fastsaddle.ranks.mail import Letter, Mail
from fastsaddle.ranks.notes import Notes, said
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.transport import Pending, Transport

# bytes that texts take at most, which may be more than models
SPARE = 2**20


class Peers:
    """All exchanges of one optimizer, in one order for all ranks.

    Whoever fails sends its next message as a header alone, which says so, and raises. Whoever is told, or misses a
    message, passes it on in one more exchange, with everybody but those who told it and those it missed, and raises
    too. So everybody stops soon, by the same cause. Who cannot be told so reads it in the notes.

    Args:
        placement: who holds which agents.
        hearers: ranks that hear this one.
        heard: ranks that this one hears; the same wherever links go both ways.

    Attributes:
        who: all of them, ascending.
        round: exchanges done.
        bytes_on_wire: what has left this process, headers included.
    """

    def __init__(self, placement: Placement, hearers: Iterable[int], heard: Iterable[int]) -> None:
        self.placement = placement
        self._hearers, self._heard = tuple(sorted(hearers)), tuple(sorted(heard))
        self.who = tuple(sorted({*self._hearers, *self._heard}))
        self.round, self.bytes_on_wire = 0, 0
        self._under_way: tuple[Pending, Mail] | None = None

    # asked for each time: what is copied goes on over the same connections, and ends with them

    @property
    def notes(self) -> Notes:
        return self.placement.notes

    @property
    def _transport(self) -> Transport:
        return self.placement.transport

    def exchange(self, mail: Mail) -> None:
        """Send what lies in `mail.out`, and fill `mail.into`.

        Raises:
            PeerError: a peer failed, now or before.
        """
        self.begin(mail)
        self.finish()

    def begin(self, mail: Mail) -> None:
        """The first half of `exchange`: until `finish` nobody may touch what lies in `mail`.

        Over a placement one is under way at a time: what any optimizer has begun before is finished first.

        Raises:
            PeerError: a peer failed, now or before.
        """
        self.placement.finish()
        self.notes.check()
        sends, receives = mail.address(self.round)
        transport = self._transport
        transport.largest = max(transport.largest, *(r.numel() for r in receives.values()), 0)
        try:
            pending = transport.exchange(sends, receives)
        except TransportError as error:
            raise self._missed(error, None, mail) from error
        except BaseException as error:
            self.notes.end(error)
            raise
        self._under_way = pending, mail
        self.placement.under_way.append(self)

    def finish(self) -> None:
        """The second half: wait for what was begun; does nothing where nothing was.

        Raises:
            PeerError: a peer failed.
        """
        if self._under_way is None:
            return
        (pending, mail), self._under_way = self._under_way, None
        self.placement.under_way.remove(self)
        try:
            pending.wait()
        except TransportError as error:
            raise self._missed(error, pending, mail) from error
        except BaseException as error:
            self.notes.end(error)
            raise
        self.bytes_on_wire += mail.bytes_out
        letters = mail.opened(self.round)
        self.round += 1
        if letters:
            raise self._read(letters)

    def withdraw(self, error: BaseException) -> set[int]:
        """What was to be exchanged next has failed here: take part with the news alone; the peers that do so too."""
        try:
            # its messages came before the news
            self.placement.finish()
        except PeerError:
            return set()
        if self.notes.ended is not None or not self.who:
            return set()
        self.notes.end(error)
        return self._tell(self.notes.told(self.notes.error(self.placement.rank, said(error))), ())

    def _missed(self, error: TransportError, pending: Pending | None, mail: Mail) -> PeerError:
        """A message did not come or go: what is to be raised, after all others were told."""
        lost = {error.peer} | gone(pending)
        # what came from those that are left may say more than that something did not
        letters = [x for x in mail.opened(self.round) if x.peer not in lost]
        self.round += 1
        if any(x.found is not None and x.found.status for x in letters):
            return self._read(letters, lost)
        rank = error.peer if error.peer >= 0 else self.placement.rank
        first = self.notes.found(self.notes.error(rank, error.cause))
        # those that have got this exchange's messages wait in the next one
        self._tell(first, lost)
        return first

    def _read(self, letters: list[Letter], lost: Iterable[int] = ()) -> PeerError:
        """Headers were not those expected: what is to be raised, after all others were told."""
        told = {x.peer: x.found for x in letters if x.found is not None and x.found.status}
        for header in told.values():
            news = (header.origin, header.cause, header.since, header.noticed)
            first = self.notes.told(self.notes.error(*news))
            self._tell(first, {*told, *lost})
            return first
        letter = letters[0]
        cause = f"sent {letter.found} where {letter.expected} was due"
        first = self.notes.told(self.notes.error(letter.peer, cause))
        self._tell(first, lost)
        return first

    def _tell(self, error: PeerError, informed: Iterable[int]) -> set[int]:
        """One more exchange, in which this rank sends the news alone, with all peers but the informed.

        Returns the peers that have sent such news too.
        """
        if self.notes.ended is None:
            self.notes.end(error)
        informed = {*informed}
        told = [peer for peer in self._hearers if peer not in informed]
        asked = [peer for peer in self._heard if peer not in informed]
        if not self._transport.takes_short or not (told or asked):
            return set()
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
        # whatever they send next, of whatever kind; memory that is never touched costs nothing
        most = max(self._transport.largest, SPARE)
        receives = {peer: torch.empty(most, dtype=torch.uint8, device="cpu") for peer in asked}
        for buffer in receives.values():
            buffer[:SIZE].zero_()
        # those who are gone need no news
        with suppress(TransportError):
            gone(self._transport.exchange(dict.fromkeys(told, news), receives))
        heard = {peer: Header.of(bytes(buffer[:SIZE].numpy())) for peer, buffer in receives.items()}
        return {peer for peer, found in heard.items() if found is not None and found.status}


def gone(pending: Pending | None) -> set[int]:
    """Wait for all messages that still come and go; the peers of those that do not."""
    lost = set()
    while pending is not None:
        try:
            pending.wait()
            break
        except TransportError as error:
            lost.add(error.peer)
    return lost
