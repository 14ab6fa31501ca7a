"""Whom ranks name, from what they have seen and what others have noted."""

import gc
import time

import pytest

from fastsaddle.ranks import PeerError, Placement, ThreadTransport
from fastsaddle.ranks import notes as module
from fastsaddle.ranks.errors import NotesGone
from fastsaddle.ranks.fingerprint import Agreement
from fastsaddle.ranks.notes import Notes

RANKS = 5


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)


def notes(key: str = "of a run") -> list[Notes]:
    """Of all ranks, one agent each."""
    ends = ThreadTransport.group(RANKS)
    found = [Placement((1,) * RANKS, end).notes for end in ends]
    for rank, each in enumerate(found):
        each.join(Agreement(key, tuple("abcde")), lambda rank=rank: 10 + rank)
    return found


def missed(here: Notes, rank: int, cause: str = "connection closed") -> PeerError:
    """The verdict of a rank that missed a message of another."""
    return here.found(here.error(rank, cause))


def test_who_was_missed_and_says_nothing_is_the_culprit() -> None:
    ranks = notes()
    error = missed(ranks[1], 2)
    assert (error.rank, error.step, error.noticed_by, error.host) == (2, 11, 1, "c")


def test_bearers_of_news_are_not_blamed() -> None:
    ranks = notes()
    # whatever their order: 4 missed 3, which missed 2, which missed 1
    for there, rank in ((4, 3), (3, 2), (2, 1)):
        ranks[there]._report(ranks[there].error(rank, "nothing came for 1 s"))
    error = missed(ranks[0], 4)
    assert (error.rank, error.noticed_by, error.cause) == (1, 2, "nothing came for 1 s")
    # the first verdict is everybody's, also of those who saw something else
    assert str(missed(ranks[3], 2)) == str(error)
    assert str(ranks[4].told(ranks[4].error(0, "something else"))) == str(error)


def test_a_report_that_comes_a_little_later_counts() -> None:
    ranks = notes()
    module.GRACE = 5.0
    begin = time.monotonic()
    waits = iter(range(100))

    def asked(name: str, read: object = ranks[0]._asked) -> object:
        if next(waits) == 4:
            ranks[1]._report(ranks[1].error(2, "connection closed"))
            ranks[1]._first(ranks[1].error(2, "connection closed"))
        return read(name)  # type: ignore[operator]

    ranks[0]._asked = asked  # type: ignore[method-assign]
    assert missed(ranks[0], 1).rank == 2 and time.monotonic() - begin < 2


def test_who_failed_by_itself_is_named_with_its_own_words() -> None:
    ranks = notes()
    ranks[3]._report(ranks[3].error(3, "Fault: on purpose"))
    error = missed(ranks[2], 3)
    assert (error.rank, error.cause, error.noticed_by) == (3, "Fault: on purpose", 3)


def test_who_lives_and_was_missed_in_turn_was_missed_first() -> None:
    # as a rank that was stopped for a while, and then finds connections closed
    ranks = notes()
    ranks[1]._report(ranks[1].error(2, "nothing came for 1 s"))
    error = missed(ranks[2], 1)
    assert (error.rank, error.noticed_by, error.cause) == (2, 1, "nothing came for 1 s")
    assert str(missed(ranks[1], 2)) == str(error)


def test_who_has_left_is_said_to_have() -> None:
    ranks = notes()
    here, life = ranks[3].placement.transport, ranks[3]._life
    module.leave(here, life)
    error = missed(ranks[2], 3)
    assert (error.rank, error.cause) == (3, "has left after step 13")


def test_an_end_is_noted_by_itself() -> None:
    ranks = notes()
    transport = ranks[3].placement.transport
    del ranks[3]
    gc.collect()
    assert transport.asked("of a run left 3") == b"13"


def test_keys_tell_runs_apart() -> None:
    ends = ThreadTransport.group(RANKS)
    found = [[Placement((1,) * RANKS, end).notes for end in ends] for _ in range(2)]
    for key, each in zip(("a", "b"), found, strict=True):
        for here in each:
            here.join(Agreement(key), lambda: 0)
    assert missed(found[0][0], 1).rank == 1
    assert missed(found[1][0], 2).rank == 2


def test_where_notes_are_gone_who_held_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> bytes:
        raise NotesGone("no answer")

    ranks = notes()
    for rank, server, named in ((3, 0, 0), (3, None, 2), (0, 0, 2)):
        here = ranks[rank]
        transport = here.placement.transport
        monkeypatch.setattr(transport, "tell", gone)
        monkeypatch.setattr(transport, "server", server)
        assert missed(here, 2).rank == named
        # what was told by a message is not doubted
        assert here.told(here.error(4, "closed")).rank == 4


def test_without_an_agreement_nothing_is_noted() -> None:
    (end, *_) = ThreadTransport.group(2)
    here = Placement((1, 1), end).notes
    assert missed(here, 1).rank == 1 and not end.office.notes
    here.end(missed(here, 1))
    with pytest.raises(PeerError, match=r"agent 1 \(rank 1\)"):
        here.check()
