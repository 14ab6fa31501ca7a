"""Headers that are not read when they come, as on a GPU: counted, kept, and read where the host looks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks import PeerError, Placement, ThreadTransport
from fastsaddle.ranks import peers as module
from fastsaddle.ranks.header import SIZE, Header, Kind, tensor_of
from fastsaddle.ranks.mail import Mail, to_all
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.over_threads import closure_of

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = (1, 2, 1)


def mail() -> Mail:
    """Two messages from rank 3, and one from rank 5."""
    receives = {3: to_all([6, 7]), 5: to_all([9])}
    return Mail(Kind.ROW, {}, receives, 8, torch.device("cpu"))


def come(one: Mail, round_: int, *headers: Header) -> None:
    one.address(round_)
    one.into[:, :SIZE] = tensor_of([header.at(round_) for header in headers])


def test_the_first_that_were_wrong_are_kept_and_given_once() -> None:
    one = mail()
    one.reads_late = True
    right = [Header(Kind.ROW, 0, agent, -1, 8) for agent in (6, 7, 9)]
    refused = Header(Kind.ROW, 0, 9, -1, 8, 1, 5, 41, 5, "Fault")
    for round_ in range(3):
        come(one, round_, *right)
        assert one.opened(round_) == [] == one.counted()
    come(one, 3, *right[:2], refused)
    assert one.opened(3) == [] and int(one.mismatches) == 1
    # what comes later, right or wrong, takes nobody's place
    come(one, 4, right[1], right[0], right[2])
    assert one.opened(4) == [] and int(one.mismatches) == 3
    come(one, 5, *right)
    assert one.opened(5) == []
    (letter,) = one.counted()
    assert (letter.peer, letter.found, letter.expected) == (5, refused.at(3), right[2].at(3))
    assert one.counted() == []
    come(one, 6, refused, *right[1:])
    assert one.opened(6) == [] and [letter.peer for letter in one.counted()] == [3]


def test_elsewhere_they_are_read_at_once() -> None:
    one = mail()
    come(one, 0, *(Header(Kind.ROW, 0, agent, -1, 8) for agent in (6, 8, 9)))
    assert [letter.peer for letter in one.opened(0)] == [3]
    assert one.counted() == [] and not int(one.mismatches)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All mail is as on a GPU."""
    make = Mail.__init__

    def made(self: Mail, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        self.reads_late = True

    monkeypatch.setattr(Mail, "__init__", made)
    yield


class Fault(Exception):
    """Raised on purpose."""


def disturbed(look: Callable[[Any], Any], seed: int) -> list[Any]:
    """What each rank comes to where rank 0 sends what is not due once, and the others then look."""
    start = torch.randn(4, 40, generator=torch.Generator().manual_seed(seed))

    def work(transport: ThreadTransport) -> Any:
        here = Placement(COUNTS, transport)
        own = start[here.first_agent : here.first_agent + here.agents]
        p = nn.Parameter(own.clone())
        optimizer = fs.QGM([p], lr=0.1, topology="ring", placement=here)
        closure = closure_of(optimizer, here.first_agent, [])
        for _ in range(3):
            optimizer.step(closure)
        optimizer.raise_if_skipped()
        if here.rank == 0:
            # of another round
            optimizer.communicator.peers.round += 1
        optimizer.step(closure)
        return look(optimizer)

    return run_in_threads(len(COUNTS), work, timeout=5)


LOOKS: dict[str, Callable[[Any], Any]] = {
    "gathered": lambda optimizer: optimizer.gathered(),
    "state_dict": lambda optimizer: optimizer.state_dict(),
    "raise_if_skipped": lambda optimizer: optimizer.raise_if_skipped(),
}


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("name", LOOKS)
def test_who_looks_is_told(name: str, seed: int) -> None:
    for error in disturbed(LOOKS[name], seed):
        assert isinstance(error, PeerError) and "where Header" in error.cause, error


@pytest.mark.usefixtures("late")
def test_steps_look_now_and_then(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 5)

    def on(optimizer: Any) -> None:
        for _ in range(7):
            optimizer.step(closure_of(optimizer, optimizer.placement.first_agent, []))

    for error in disturbed(on, seed):
        assert isinstance(error, PeerError) and "where Header" in error.cause, error


@pytest.mark.usefixtures("late")
def test_graphs_that_never_come_again_are_read_too(seed: int) -> None:
    """What was wrong in a round is told later, though its messages are made for it alone."""

    def work(transport: ThreadTransport) -> Any:
        here = Placement((2, 2), transport)
        p = nn.Parameter(torch.zeros(2, 40))
        optimizer = fs.DSGD([p], topology=fs.topology.matchings(4, seed), placement=here)
        closure, peers = closure_of(optimizer, here.first_agent, []), optimizer.communicator.peers
        rounds = [t for t in range(20) if (optimizer.topology.at(t).W[:2, 2:] > 0).any()]
        for t in range(20):
            wrong = here.rank == 0 and t == rounds[1]
            peers.round += wrong
            optimizer.step(closure)
            peers.round -= wrong
        return optimizer.raise_if_skipped()

    for error in run_in_threads(2, work, timeout=5):
        assert isinstance(error, PeerError) and "where Header" in error.cause, error


@pytest.mark.usefixtures("late")
def test_who_failed_is_named_where_its_header_was_not_read(seed: int) -> None:
    start = torch.randn(4, 40, generator=torch.Generator().manual_seed(seed))

    def work(transport: ThreadTransport) -> Any:
        here = Placement(COUNTS, transport)
        p = nn.Parameter(start[here.first_agent : here.first_agent + here.agents].clone())
        optimizer = fs.QGM([p], lr=0.1, topology="ring", placement=here)
        closure = closure_of(optimizer, here.first_agent, [])
        optimizer.step(closure)
        if here.rank == 0:
            with pytest.raises(Fault):
                optimizer.step(fail)
            transport.close()
            return None
        for _ in range(4):
            optimizer.step(closure)

    def fail() -> None:
        raise Fault("on purpose")

    none, *others = run_in_threads(len(COUNTS), work, timeout=5)
    assert none is None
    for error in others:
        assert isinstance(error, PeerError) and error.rank == 0, error
        assert error.cause == "Fault: on purpose"
