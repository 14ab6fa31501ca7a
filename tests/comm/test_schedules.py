"""Schedules against definitions written here: which graph each round has, what a period's product is."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsaddle as fs
from fastsaddle.graphs.schedule import KINDS, kind_of, most_neighbors

SIZES = st.integers(1, 40)


def product(schedule: fs.Schedule) -> torch.Tensor:
    """Of a period's matrices, the last one leftmost."""
    assert schedule.period is not None
    found = torch.eye(schedule.agents, dtype=torch.float64)
    for t in range(schedule.period):
        found = schedule.at(t).W @ found
    return found


def check_rounds(schedule: fs.Schedule, rounds: int) -> None:
    """W is of the kind that it says, edges are in the union, rounds do not depend on the order they are asked in."""
    assert isinstance(schedule, fs.Schedule)
    seen = torch.zeros(schedule.agents, schedule.agents, dtype=torch.bool)
    graphs = [schedule.at(t).W.clone() for t in range(rounds)]
    for t in reversed(range(rounds)):
        graph = schedule.at(t)
        assert torch.equal(graph.W, graphs[t]) and graph.agents == schedule.agents
        assert (graph.W >= 0).all()
        assert KINDS.index(graph.kind) >= KINDS.index(kind_of(schedule))
        assert max(map(len, graph.neighbors)) <= most_neighbors(schedule)
        seen |= graph.W > 0
    assert not (seen & (schedule.union.W <= 0)).any()


def test_a_topology_is_its_own_schedule() -> None:
    graph = fs.topology.ring(6)
    assert graph.at(0) is graph.at(10**9) is graph.union is graph
    assert graph.period == 1 and isinstance(graph, fs.Schedule)


@given(st.integers(0, 7))
def test_powers_of_two_reach_the_exact_mean_in_log_n_rounds(power: int) -> None:
    n = 2**power
    for directed in (True, False):
        schedule = fs.topology.one_peer_exponential(n, directed)
        assert schedule.period == max(1, power)
        assert (product(schedule) - 1 / n).abs().max() < 1e-15


@given(SIZES, st.integers(0, 200))
def test_one_peer_exponential(n: int, t: int) -> None:
    rounds = max(1, (n - 1).bit_length())
    hop = 2 ** (t % rounds)
    graph = fs.topology.one_peer_exponential(n).at(t)
    for i in range(n):
        heard = torch.zeros(n, dtype=torch.float64)
        heard[i] += 0.5
        heard[(i - hop) % n] += 0.5
        assert torch.equal(graph.W[i], heard)
    pairs = fs.topology.one_peer_exponential(n, directed=False).at(t)
    for i in range(n):
        other = i ^ hop
        assert pairs.neighbors[i] == ((other,) if other < n else ())
        assert pairs.W[i, i] == (0.5 if other < n else 1.0)


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_matchings(n: int, seed: int, t: int) -> None:
    graph = fs.topology.matchings(n, seed).at(t)
    alone = [i for i, near in enumerate(graph.neighbors) if not near]
    assert len(alone) == n % 2 and max(map(len, graph.neighbors)) <= 1
    assert all(graph.neighbors[near[0]] == (i,) for i, near in enumerate(graph.neighbors) if near)
    assert graph.kind == "symmetric doubly stochastic"


def test_matchings_are_all_as_likely() -> None:
    schedule, rounds = fs.topology.matchings(5, 3), 4000
    mean = sum(schedule.at(t).W for t in range(rounds)) / rounds
    torch.testing.assert_close(mean, schedule.union.W, rtol=0, atol=0.02)
    four = fs.topology.matchings(4, 1)
    counts = torch.tensor([four.at(t).neighbors[0][0] for t in range(3000)]).bincount()
    assert counts.tolist()[0] == 0 and (counts[1:] - 1000).abs().max() < 100
    # one round says nothing of the next, nor one seed of another
    kept = sum(a == b for a, b in pairwise(four.at(t).neighbors for t in range(3000)))
    assert abs(kept - 1000) < 100
    assert [four.at(t).neighbors for t in range(20)] != [
        fs.topology.matchings(4, 2).at(t).neighbors for t in range(20)
    ]


def test_a_sequence_begins_again() -> None:
    a, b = fs.topology.ring(4), fs.topology.from_matrix(torch.eye(4), allow_disconnected=True)
    schedule = fs.topology.sequence([a, b, b])
    assert schedule.period == 3
    assert [schedule.at(t) is a for t in range(7)] == [True, False, False, True, False, False, True]
    torch.testing.assert_close(schedule.union.W, (a.W + 2 * b.W) / 3)


@pytest.mark.parametrize(
    "schedule",
    [
        fs.topology.one_peer_exponential(6),
        fs.topology.one_peer_exponential(11, directed=False),
        fs.topology.matchings(9, 5),
        fs.topology.sequence([fs.topology.ring(5), fs.topology.directed_ring(5)]),
        fs.topology.directed_ring(4),
    ],
    ids=repr,
)
def test_rounds_are_pure(schedule: fs.Schedule) -> None:
    check_rounds(schedule, 30)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert all(torch.equal(other.at(t).W, schedule.at(t).W) for t in (29, 0, 3))


def test_kinds() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.1, 0.0, 0.9]])
    make = fs.topology.from_matrix
    assert make(rows, directed=True).kind == "row-stochastic"
    assert make(rows.T, directed=True).kind == "column-stochastic"
    assert fs.topology.directed_ring(3).kind == "doubly stochastic"
    assert fs.topology.ring(3).kind == "symmetric doubly stochastic"
    mixed = fs.topology.sequence([fs.topology.ring(3), make(rows, directed=True)])
    assert kind_of(mixed) == "row-stochastic"


def test_what_a_column_stochastic_w_sends_adds_up_to_one() -> None:
    W = torch.rand(7, 7, dtype=torch.float64) * (torch.rand(7, 7) < 0.6) + torch.eye(7)
    W /= W.sum(0)
    graph = fs.topology.from_matrix(W, directed=True, allow_disconnected=True)
    for gamma in (1.0, 0.3):
        indices, weights = graph.mixing_lists(gamma)
        held = torch.zeros(7, 8).scatter(1, indices.long() % 8, weights)[:, :7].double()
        assert (held.sum(0) == 1).all()
        wanted = (1 - gamma) * torch.eye(7) + gamma * W
        torch.testing.assert_close(held, wanted, rtol=0, atol=1e-7)


def test_refused() -> None:
    make = fs.topology
    with pytest.raises(ValueError, match=r"graphs must be one fs\.Topology or more, got \[\]"):
        make.sequence([])
    with pytest.raises(ValueError, match=r"must have the same agents, got \[3, 4\]"):
        make.sequence([make.ring(3), make.ring(4)])
    apart = make.from_matrix(torch.eye(3), allow_disconnected=True)
    with pytest.raises(ValueError, match="all graphs of mine together has 3 parts: add graphs"):
        make.sequence([apart, apart], "mine")
    for build in (make.matchings, make.one_peer_exponential, make.directed_ring):
        with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
            build(0)
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        make.matchings(4, -1)
    with pytest.raises(ValueError, match="row-stochastic or column-stochastic, got row 0 with sum"):
        make.from_matrix([[0.5, 0.2], [0.4, 0.6]], directed=True)
