"""A rank that fails: every other one raises soon, names it, and keeps its models as they were."""

import pickle
from pathlib import Path

import pytest

import fastsaddle as fs
from fastsaddle.optimizer.errors import NonFiniteGradientError
from fastsaddle.ranks import PeerError
from tests.ranks import processes, work

# seconds from the failure until a rank has raised, beside the timeout where a rank was stopped
SOON = {"kill": 3.0, "stop": 3.0, "raise": 1.0, "nan": 1.0, "leave": 3.0}
SAID = {
    "kill": "connection closed",
    "stop": "nothing came for",
    "raise": "Fault: on purpose",
    "nan": "NonFiniteGradientError: gradients must be finite",
    "leave": "has left after step 3",
}
OWN = {"raise": work.Fault, "nan": NonFiniteGradientError}
TIMEOUT = 1.0
# how, optimizer, graph, counts, which rank, whether it serves the notes
CASES = (
    ("kill", "QSADDLe", "ring", (1,) * 6, 3, False),
    ("kill", "QGM", "ring", (1, 2, 1, 1), 0, True),
    ("kill", "LocalSGD", "ring", (2, 1, 1), 1, False),
    ("stop", "QGM", "ring", (1,) * 5, 3, True),
    ("stop", "NGM", "ring", (1, 1, 1, 1), 0, True),
    ("raise", "GradientTracking", "exponential", (2, 1, 2, 1), 1, False),
    ("raise", "EASGD", "ring", (1, 2, 1), 2, False),
    ("nan", "QSADDLe", "ring", (1, 3, 1, 1, 1), 1, False),
    ("leave", "QGM", "ring", (1,) * 5, 3, False),
)


@pytest.mark.parametrize(("how", "name", "graph", "counts", "culprit", "served"), CASES)
def test_every_rank_names_the_one_that_failed(
    how: str,
    name: str,
    graph: str,
    counts: tuple[int, ...],
    culprit: int,
    served: bool,
    tmp_path: Path,
) -> None:
    timeout = TIMEOUT if how == "stop" else 15.0
    arguments = (name, graph, counts, culprit, how, 3, timeout)
    found = processes.run(work.faulty, len(counts), tmp_path, *arguments, bound=15, served=served)
    fault = found[culprit].fault
    assert fault is not None
    first = sum(counts[:culprit])
    agents = range(first, first + counts[culprit])
    said = set()
    for rank, ended in enumerate(found):
        assert ended.error is None and not ended.hung
        if rank == culprit and how not in OWN:
            continue
        told = ended.value
        error, again = told["error"], told["again"]
        assert told["kept"], rank
        assert isinstance(again, PeerError)
        if rank == culprit:
            assert isinstance(error, OWN[how])
            assert again.rank == culprit
            continue
        assert isinstance(error, PeerError), error
        assert (error.rank, error.agents) == (culprit, agents), str(error)
        assert str(again) == str(error) and SAID[how] in str(error)
        late = told["raised"] - fault - (timeout if how == "stop" else 0)
        assert late < SOON[how], late
        said.add(str(error))
    # where the notes went with the culprit everybody tells what it saw
    assert len(said) == 1 or (served and culprit == 0)


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
    assert fs.ranks.PeerError is PeerError
