"""This rank's exchanges with others: counted, checked, and ended together where one fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from fastsaddle.optimizer.ranges import ranged
from fastsaddle.ranks.errors import PeerError, TransportError
from fastsaddle.ranks.header import ALL, MOST_SAID, SIZE, Header, Kind, tensor_of
from fastsaddle.ranks.mail import Letter, Mail
from fastsaddle.ranks.notes import Notes, said
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.transport import Pending, Transport

# bytes that texts take at most, which may be more than models
SPARE = 2**20
# exchanges from one look at headers that were not read to the next: a look waits for the GPU
LOOK_EVERY = 64


class Peers:
    """All exchanges of one optimizer, in one order for all ranks.

    Whoever fails sends its next message as a header alone, which says so, and raises. Whoever is told, or misses a
    message, passes it on in one more exchange, with everybody but those who told it and those it missed, and raises
    too. So everybody stops soon, by the same cause. Who cannot be told so reads it in the notes.

    Nothing has ended where all ranks fail at the same place: none of them has moved. That is known once each has sent
    its header as often as news need to get everywhere.

    Args:
        placement: who holds which agents.
        hearers: ranks that hear this one.
        heard: ranks that this one hears; the same wherever links go both ways.

    Attributes:
        who: all of them, ascending.
        round: exchanges done.
        begun: steps begun.
        bytes_on_wire: what has left this process in exchanges of mail, headers included.
    """

    def __init__(self, placement: Placement, hearers: Iterable[int], heard: Iterable[int]) -> None:
        self.placement = placement
        self._hearers, self._heard = tuple(sorted(hearers)), tuple(sorted(heard))
        self.who = tuple(sorted({*self._hearers, *self._heard}))
        self.round, self.begun, self.bytes_on_wire = 0, 0, 0
        # mail whose headers are read late, kept until then
        self._unread: set[Mail] = set()
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
            with ranged("exchange"):
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
        if mail.reads_late:
            self._unread.add(mail)
            if self.round % LOOK_EVERY == 0:
                self.look()

    def look(self) -> None:
        """Read the headers that were not read when they came: those of mail on a GPU.

        Raises:
            PeerError: one was not as expected.
        """
        if letters := self._counted():
            raise self._read(letters)

    def _counted(self) -> list[Letter]:
        unread, self._unread = self._unread, set()
        return [letter for mail in unread for letter in mail.counted()]

    def withdraw(self, error: BaseException) -> set[int]:
        """What was to be exchanged next has failed here: take part with the news alone; the peers that do so too."""
        try:
            # its messages came before the news
            self.placement.finish()
        except PeerError:
            return set()
        if self.notes.ended is not None or not self.who:
            return set()
        first = self.notes.told(self.notes.error(self.placement.rank, said(error)))
        is_asked = self._transport.takes_short
        answers = self._asked(Kind.REFUSAL, first) if is_asked else Answers()
        if answers.agree:
            self.notes.go_on()
            return {*self.who}
        self.notes.end(error)
        return answers.told | self._tell(first, answers.others)

    def change(self, cause: str) -> None:
        """Something has changed here that must change on all ranks: go on where it has.

        Args:
            cause: what, in at most `MOST_SAID` characters.

        Raises:
            PeerError: somewhere it has not, or a peer failed.
        """
        self.placement.finish()
        self.notes.check()
        if not self._transport.takes_short:
            return
        own = self.notes.error(self.placement.rank, cause[:MOST_SAID])
        answers = self._asked(Kind.CHANGE, own)
        if answers.agree:
            return
        if answers.lost and not answers.told:
            rank, why = next(iter(answers.lost.items()))
            first = self.notes.found(self.notes.error(rank, why))
        else:
            first = self._first_told(answers.heads.values()) or self.notes.told(own)
        self._tell(first, answers.others)
        raise first

    def _asked(self, kind: Kind, error: PeerError) -> Answers:
        """Say in headers alone what is so here, and hear whether it is so on all ranks.

        A rank where it is not sends something else, and is told by what it gets. Its peers learn of it at once, theirs
        from them, and so on.
        """
        answers = Answers()
        others = self._transport.size - 1
        for _ in range(1 if len(self.who) == others else others):
            header = self._header(kind, error)
            answers = Answers(*self._heads(header, self._hearers, self._heard), header)
            self.round += 1
            if not answers.agree:
                break
        return answers

    def _missed(self, error: TransportError, pending: Pending | None, mail: Mail) -> PeerError:
        """A message did not come or go: what is to be raised, after all others were told."""
        lost = {error.peer, *gone(pending)}
        # what came from those that are left may say more than that something did not
        letters = [x for x in mail.opened(self.round) if x.peer not in lost] + self._counted()
        self.round += 1
        if any(x.found is not None and x.found.status for x in letters):
            return self._read(letters, lost)
        rank, cause = error.peer, error.cause
        if stopped := self._transport.stopped:
            # others have closed their connections meanwhile, as they waited for this one
            rank, cause = -1, f"was stopped for {stopped:.1f} s"
        rank = self.placement.rank if rank < 0 else rank
        first = self.notes.found(self.notes.error(rank, cause))
        # those that have got this exchange's messages wait in the next one
        self._tell(first, lost)
        return first

    def _read(self, letters: list[Letter], lost: Iterable[int] = ()) -> PeerError:
        """Headers were not those expected: what is to be raised, after all others were told."""
        told = [x.peer for x in letters if x.found is not None and x.found.status]
        first = self._first_told(x.found for x in letters)
        if first is None:
            letter = letters[0]
            first = self.notes.told(self.notes.error(letter.peer, letter.cause))
        self._tell(first, {*told, *lost})
        return first

    def _first_told(self, headers: Iterable[Header | None]) -> PeerError | None:
        """The verdict where one of these tells of a failure."""
        for header in headers:
            if header is not None and header.status:
                news = (header.origin, header.cause, header.since, header.noticed)
                return self.notes.told(self.notes.error(*news))
        return None

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
        # those who are gone need no news
        return Answers(*self._heads(self._header(Kind.ROW, error), told, asked)).told

    def _header(self, kind: Kind, error: PeerError) -> Header:
        first, news = self.placement.first_agent, (error.rank, error.step, error.noticed_by)
        return Header(kind, self.round, first, ALL, 0, 1, *news, error.cause, self.begun)

    def _heads(
        self, header: Header, told: Iterable[int], asked: Iterable[int]
    ) -> tuple[dict[int, Header | None], dict[int, str]]:
        """Send a header alone, and get whatever others send next: their headers, and who has sent none, and why."""
        news = tensor_of([header])[0]
        # of whatever kind it is; memory that is never touched costs nothing
        most = max(self._transport.largest, SPARE)
        receives = {peer: torch.empty(most, dtype=torch.uint8, device="cpu") for peer in asked}
        for buffer in receives.values():
            buffer[:SIZE].zero_()
        try:
            lost = gone(self._transport.exchange(dict.fromkeys(told, news), receives))
        except TransportError as error:
            lost = {error.peer: error.cause}
        heard = {peer: Header.of(bytes(b[:SIZE].numpy())) for peer, b in receives.items()}
        return heard, lost


@dataclass(frozen=True)
class Answers:
    """What peers have sent in an exchange of headers alone.

    Attributes:
        heads: the header that each has sent; None where it was none.
        lost: who has sent nothing, and why.
        own: what was sent to them; None where nobody was asked.
    """

    heads: Mapping[int, Header | None] = field(default_factory=dict)
    lost: Mapping[int, str] = field(default_factory=dict)
    own: Header | None = None

    @property
    def agree(self) -> bool:
        """Whether all say the same as this rank."""
        return self.own is not None and not self.lost and not self.others

    @property
    def others(self) -> set[int]:
        """Who does not: they have stopped, told by what was sent to them, or are gone."""
        return {peer for peer, head in self.heads.items() if not self._is_like_own(head)}

    @property
    def told(self) -> set[int]:
        """Who has told of a failure."""
        return {peer for peer, head in self.heads.items() if head is not None and head.status}

    def _is_like_own(self, head: Header | None) -> bool:
        if head is None or self.own is None:
            return False
        return all(getattr(head, name) == getattr(self.own, name) for name in SAME)


# what is the same where two ranks have failed at the same place, whatever the causes
SAME = ("kind", "round", "status", "begun")


def gone(pending: Pending | None) -> dict[int, str]:
    """Wait for all messages that still come and go; the peers of those that do not, and why."""
    lost: dict[int, str] = {}
    while pending is not None:
        try:
            pending.wait()
            break
        except TransportError as error:
            lost[error.peer] = error.cause
    return lost
