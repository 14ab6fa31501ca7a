"""A rank that fails: every other one raises soon, names it, and keeps its models as they were."""

import pickle
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks import PeerError, Placement, ThreadTransport, TransportError
from fastsaddle.ranks.peers import gone
from fastsaddle.ranks.thread_transport import run_in_threads
from fastsaddle.ranks.torch_transport import Batch
from tests.ranks import processes, work
from tests.ranks.verdicts import complaints

TIMEOUT = 1.0
# how, at which step, optimizer, graph, counts, which rank, whether rank 0 serves the notes
CASES = (
    ("kill", 3, "QSADDLe", "ring", (1,) * 6, 3, False),
    ("kill", 3, "QGM", "ring", (1, 2, 1, 1), 0, True),
    ("kill", 3, "LocalSGD", "ring", (2, 1, 1), 1, False),
    ("stop", 3, "QGM", "ring", (1,) * 5, 3, True),
    ("stop", 3, "NGM", "ring", (1, 1, 1, 1), 0, True),
    # goes on later, and is told that it was missed
    ("pause", 3, "QGM", "ring", (2, 1, 1, 1), 2, False),
    ("raise", 3, "GradientTracking", "exponential", (2, 1, 2, 1), 1, False),
    ("raise", 3, "EASGD", "ring", (1, 2, 1), 2, False),
    # before anything was sent
    ("raise", 0, "DPPF", "ring", (2, 2, 1), 0, True),
    ("nan", 3, "QSADDLe", "ring", (1, 3, 1, 1, 1), 1, False),
    ("leave", 3, "QGM", "ring", (1,) * 5, 3, False),
)


@pytest.mark.parametrize(("how", "at", "name", "graph", "counts", "culprit", "served"), CASES)
def test_every_rank_names_the_one_that_failed(
    how: str,
    at: int,
    name: str,
    graph: str,
    counts: tuple[int, ...],
    culprit: int,
    served: bool,
    tmp_path: Path,
) -> None:
    timeout = TIMEOUT if how in ("stop", "pause") else 15.0
    arguments = (name, graph, counts, culprit, how, at, timeout)
    how_run = {"bound": 15, "served": served, "wakes": how == "pause"}
    found = processes.run(work.faulty, len(counts), tmp_path, *arguments, **how_run)
    takes_notes = served and culprit == 0
    assert not [*complaints(found, culprit, how, counts, timeout, takes_notes)]


class Never:
    """A message of torch's that does not come."""

    def wait(self, timeout: timedelta) -> None:
        time.sleep(timeout.total_seconds())
        raise RuntimeError("Timed out waiting")


def test_several_that_do_not_come_take_no_longer_than_one() -> None:
    batch = Batch([(peer, Never()) for peer in range(6)], timedelta(seconds=0.4))
    begin = time.monotonic()
    with pytest.raises(TransportError, match=r"rank 0: nothing came for 0\.4 s"):
        batch.wait()
    assert [*gone(batch)] == [1, 2, 3, 4, 5]
    assert time.monotonic() - begin < 1.2


def test_the_message_says_who_waits_and_where() -> None:
    error = PeerError(3, range(7, 8), 41210, "connection closed", 2, "b", {6: 2, 8: 4})
    assert str(error) == (
        "step 41210: nothing from agent 7 (rank 3, host b): connection closed; "
        "agents 6 and 8 (ranks 2 and 4) wait for it; noticed by rank 2"
    )
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.waiting == error.waiting
    many = PeerError(0, range(4), 5, "has left", 1, waiting=dict.fromkeys(range(4, 20), 1))
    assert "agents 4, 5, 6, 7, 8, 9 and 10 more (rank 1) wait" in str(many)
    assert "nothing from agents 0 to 3 (rank 0): has left" in str(many)
    two = PeerError(1, range(2, 4), 5, "has left", 0, waiting={4: 2})
    assert "agents 2 and 3 (rank 1): has left; agent 4 (rank 2) waits for it" in str(two)


@pytest.mark.parametrize("longer", [0, 1])
def test_unequal_numbers_of_steps_are_told_in_words(longer: int) -> None:
    def work(transport: ThreadTransport) -> None:
        here = Placement((1, 1), transport)
        stack = fs.AgentStack(nn.Linear(3, 2), here)
        optimizer = fs.QGM(stack.parameters(), lr=0.1, topology="ring", placement=here)
        for _ in range(4 + (here.rank == longer)):
            optimizer.step(lambda: stack(torch.ones(1, 5, 3)).sum().backward())
        stack.consensus()

    causes = {error.cause for error in run_in_threads(2, work, timeout=5)}
    assert causes <= {
        "took a step where a mean of all agents (consensus) was due",
        "took a mean of all agents (consensus) where a step was due",
    }
    assert len(causes) == 1
