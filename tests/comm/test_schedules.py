"""Schedules against definitions written here: which graph each round has, what a period's product is."""

import copy
import gc
import math
import pickle
import weakref
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsaddle as fs
from fastsaddle.graphs.edge_coloring import matchings_of
from fastsaddle.graphs.schedule import KINDS, kind_of, most_neighbors
from fastsaddle.graphs.spectrum import consensus_rate, extrapolated_growth

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


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 7))
def test_powers_of_two_reach_the_exact_mean_in_log_n_rounds(power: int) -> None:
    n = 2**power
    for directed in (True, False):
        schedule = fs.topology.one_peer_exponential(n, directed)
        assert schedule.period == max(1, power)
        assert (product(schedule) - 1 / n).abs().max() < 1e-15


@settings(deadline=None, max_examples=40)
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


def rounds_of_hypercube(n: int, k: int) -> int:
    """Fewest factors of n of at most k + 1 each."""
    if n == 1:
        return 0
    return 1 + min(rounds_of_hypercube(n // f, k) for f in range(2, k + 2) if n % f == 0)


def rounds_of_simple(n: int, k: int) -> int:
    """Those of n's largest group (k + 1)^p a, one for the groups to meet, and p; of a single group its own alone."""
    p = 0
    while (k + 1) ** (p + 1) <= n:
        p += 1
    whole = n // (k + 1) ** p * (k + 1) ** p
    if whole == n:
        return rounds_of_hypercube(n, k)
    return rounds_of_hypercube(whole, k) + 1 + p


def rounds_of_base(n: int, k: int) -> int:
    smooth = max(d for d in range(1, n + 1) if n % d == 0 and is_smooth(d, k))
    both = rounds_of_simple(n // smooth, k) + rounds_of_hypercube(smooth, k)
    return max(1, min(rounds_of_simple(n, k), both))


def is_smooth(n: int, k: int) -> bool:
    for f in range(2, k + 2):
        while n % f == 0:
            n //= f
    return n == 1


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_base_graph_reaches_the_exact_mean(k: int) -> None:
    for n in (1, 2, 3, 5, 6, 7, 12, 13, 25, 29, 36, 40):
        schedule = fs.topology.base_graph(n, k)
        assert schedule.period == rounds_of_base(n, k) <= 2 * math.log(n, k + 1) + 2
        assert (product(schedule) - 1 / n).abs().max() < 1e-12
        for t in range(schedule.period):
            graph = schedule.at(t)
            assert graph.kind == "symmetric doubly stochastic"
            assert max(map(len, graph.neighbors)) <= k and (graph.W >= 0).all()


@settings(deadline=None, max_examples=25)
@given(SIZES, st.integers(1, 5))
def test_base_graph_in_float32_lists(n: int, k: int) -> None:
    """To 1e-6 with the weights that kernels take, from any start."""
    schedule = fs.topology.base_graph(n, k)
    found = torch.eye(n, dtype=torch.float64)
    for t in range(schedule.period):
        indices, weights = schedule.at(t).mixing_lists()
        found = (
            torch.zeros(n, n + 1).scatter(1, indices.long() % (n + 1), weights)[:, :n].double()
            @ found
        )
    assert (found - 1 / n).abs().max() < 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 24), st.floats(0, 1), st.integers(0, 1000))
def test_an_edge_coloring_has_each_edge_once(n: int, p: float, seed: int) -> None:
    graph = nx.gnp_random_graph(n, p, seed=seed)
    parts = matchings_of([sorted(graph[i]) for i in range(n)])
    assert sorted(pair for part in parts for pair in part) == sorted(
        map(tuple, map(sorted, graph.edges))
    )
    for part in parts:
        assert len({agent for pair in part for agent in pair}) == 2 * len(part)
    assert len(parts) <= 1 + max(dict(graph.degree).values())


GRAPHS = {
    "ring": fs.topology.ring(7),
    "star": fs.topology.star(5),
    "torus": fs.topology.torus(3, 4),
    "random": fs.topology.erdos_renyi(9, 0.5, seed=2),
}


@pytest.mark.parametrize("budget", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("graph", GRAPHS)
def test_matcha(graph: str, budget: float) -> None:
    base = GRAPHS[graph]
    schedule, rounds = fs.topology.matcha(base, budget, seed=4), 600
    links = torch.zeros(base.agents, base.agents, dtype=torch.float64)
    active = 0
    for t in range(rounds):
        W = schedule.at(t).W
        off = W - W.diag().diag()
        assert set(off[off != 0].tolist()) <= {-0.0, schedule.alpha}
        assert W.diag().min() >= 0 and (W.sum(1) - 1).abs().max() < 1e-12
        # each matching is there whole or not at all
        whole = [bool((off[i, j] > 0) and True) for part in schedule.parts for i, j in part[:1]]
        for part, is_there in zip(schedule.parts, whole, strict=True):
            assert all((off[i, j] > 0) == is_there for i, j in part)
        active += sum(whole)
        links += off > 0
    chances = schedule.probabilities
    assert chances.sum() <= budget * len(schedule.parts) + 1e-5 and (chances <= 1).all()
    assert abs(active / rounds - float(chances.sum())) < 0.25
    for part, chance in zip(schedule.parts, chances.tolist(), strict=True):
        assert all(abs(links[i, j] / rounds - chance) < 0.1 for i, j in part)
    mean = torch.zeros_like(links)
    for part, chance in zip(schedule.parts, chances.tolist(), strict=True):
        for i, j in part:
            mean[i, j] = mean[j, i] = chance
    laplacian = mean.sum(1).diag() - mean
    expected = torch.eye(base.agents) - schedule.alpha * laplacian
    torch.testing.assert_close(schedule.union.W, expected, rtol=0, atol=1e-12)
    # no worse than every matching as likely
    even = torch.where(mean > 0, budget, 0.0)
    least = [torch.linalg.eigvalsh(m.sum(1).diag() - m)[1] for m in (mean, even)]
    assert least[0] >= least[1] - 1e-5


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(0, 2**63 - 1), st.integers(0, 2**33))
def test_equi_dyn(n: int, seed: int, t: int) -> None:
    W = fs.topology.equi_dyn(n, seed).at(t).W
    hops = [
        h
        for h in range(1, n)
        if torch.equal(W, (torch.eye(n) + torch.eye(n).roll(h, 0)).double() / 2)
    ]
    assert len(hops) == (n > 1)
    pairs = fs.topology.equi_dyn(n, seed, directed=False).at(t)
    assert pairs.kind == "symmetric doubly stochastic" and max(map(len, pairs.neighbors)) <= 1
    away = {abs(i - near[0]) for i, near in enumerate(pairs.neighbors) if near}
    assert n == 1 or (away and len({min(d, n - d) for d in away}) == 1)


@pytest.mark.parametrize("directed", [True, False])
def test_equi_dyn_is_its_mean_on_average(directed: bool) -> None:
    schedule, rounds = fs.topology.equi_dyn(6, 11, directed), 3000
    mean = sum(schedule.at(t).W for t in range(rounds)) / rounds
    torch.testing.assert_close(mean, schedule.union.W, rtol=0, atol=0.03)
    x = torch.eye(6, dtype=torch.float64) - 1 / 6
    left = (
        sum((schedule.at(t).W @ x).square().sum() for t in range(rounds))
        / rounds
        / x.square().sum()
    )
    assert not directed or abs(left - 4 / 10) < 0.02


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
        fs.topology.base_graph(11, 2),
        fs.topology.matcha(fs.topology.torus(3, 4), 0.4, 7),
        fs.topology.equi_dyn(8, 1),
        fs.topology.equi_dyn(9, 1, directed=False),
        fs.topology.sequence([fs.topology.ring(5), fs.topology.directed_ring(5)]),
        fs.topology.directed_ring(4),
    ],
    ids=repr,
)
def test_rounds_are_pure(schedule: fs.Schedule) -> None:
    check_rounds(schedule, 30)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert all(torch.equal(other.at(t).W, schedule.at(t).W) for t in (29, 0, 3))


def test_few_large_graphs_are_kept() -> None:
    """64 of 4,096 agents would take 8 GB."""
    n = 1536
    schedule = fs.Faults(links=0.1).over(fs.topology.matchings(n))
    graphs = [weakref.ref(schedule.at(t)) for t in range(12)]
    gc.collect()
    assert 1 <= sum(graph() is not None for graph in graphs) <= 3


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


class Own:
    """Somebody's own schedule."""

    name, agents = "own", 5

    def __init__(self, period: Any, graph: Any, bad: int = 0) -> None:
        self.period, self.graph, self.bad = period, graph, bad
        self.union = fs.topology.ring(5)

    def at(self, round: int) -> Any:
        return self.graph if round == self.bad else self.union


@pytest.mark.parametrize("period", [None, 3])
@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (fs.topology.ring(4), r"must be an fs\.Topology of 5 agents, got Topology\(ring, agents=4"),
        (torch.eye(5), r"must be an fs\.Topology of 5 agents, got tensor"),
        (None, r"must be an fs\.Topology of 5 agents, got None"),
        (
            fs.topology.from_matrix(torch.eye(5)[[0, 1, 4, 3, 2]], allow_disconnected=True),
            "must have no edges that its union has not, got agent 2 hearing 4",
        ),
    ],
)
def test_a_schedule_of_ones_own_keeps_its_word(period: Any, graph: Any, said: str) -> None:
    p = torch.nn.Parameter(torch.randn(5, 3))
    with pytest.raises(ValueError, match=rf"at\(2\) of the schedule own {said}"):
        fs.DSGD([p], lr=0.1, topology=Own(period, graph, 2))
    # behind the rounds that are looked at
    late = fs.DSGD([p], lr=0.1, topology=Own(None, graph, 1001))
    late.param_groups[0]["steps_done"] = 1001
    p.grad = torch.randn(5, 3)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=rf"at\(1001\) of the schedule own {said}"):
        late.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("period", [0, -1, 2.5])
def test_a_period_is_a_number_of_rounds(period: Any) -> None:
    with pytest.raises(ValueError, match=r"a whole number >= 1, or None, got"):
        fs.DSGD([torch.nn.Parameter(torch.randn(5, 3))], topology=Own(period, fs.topology.ring(5)))


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
    with pytest.raises(ValueError, match="k must be an integer >= 1, got 0"):
        make.base_graph(4, 0)
    with pytest.raises(ValueError, match=r"budget must be in \(0, 1\], got 0"):
        make.matcha(make.ring(4), 0)
    for graph in (make.directed_ring(4), make.ring(1), make.matchings(4)):
        with pytest.raises(ValueError, match="graph must be an undirected"):
            make.matcha(graph, 0.5)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 16, 32])
def test_directed_exponential_graphs(n: int) -> None:
    W = fs.topology.directed_exponential(n).W
    hops = [0, *(2**p for p in range(10) if 2**p < n)]
    wanted = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for hop in hops:
            wanted[i, (i - hop) % n] += 1 / len(hops)
    assert torch.allclose(W, wanted, rtol=0, atol=1e-15)
    if n in (8, 16, 32):
        gap = fs.topology.directed_exponential(n).spectral_gap
        assert gap == pytest.approx({8: 1 / 2, 16: 2 / 5, 32: 1 / 3}[n], abs=1e-9)


def test_consensus_rate_of_graphs_that_stay() -> None:
    for n in (4, 9):
        ring = fs.topology.ring(n)
        assert consensus_rate(ring) == pytest.approx(1 - ring.spectral_gap, abs=1e-12)
    # of a directed one distances may shrink slower than by its eigenvalues
    W = fs.topology.directed_ring(5).W
    second = torch.linalg.svdvals(W)[1]
    assert consensus_rate(fs.topology.directed_ring(5)) == pytest.approx(float(second), abs=1e-12)
    assert consensus_rate(fs.topology.fully_connected(6)) == 0.0


def test_consensus_rate_over_a_period() -> None:
    for schedule in (
        fs.topology.one_peer_exponential(6),
        fs.topology.one_peer_exponential(11, directed=False),
        fs.topology.sequence(
            [fs.topology.chain(5), fs.topology.star(5), fs.topology.directed_ring(5)]
        ),
    ):
        assert schedule.period is not None
        second = torch.linalg.svdvals(product(schedule))[1] ** (1 / schedule.period)
        assert consensus_rate(schedule) == pytest.approx(float(second), abs=1e-9)
    for exact in (fs.topology.one_peer_exponential(16), fs.topology.base_graph(25, 2)):
        assert consensus_rate(exact) == 0.0


def test_consensus_rate_of_graphs_that_are_drawn() -> None:
    """From what their chances are: matchings of n, and EquiDyn's offsets."""
    for n in (4, 9):
        pairs, peers = fs.topology.matchings(n, 5), fs.topology.equi_dyn(n, 5)
        # of pairs W^T W is W, whose mean is the union's
        expected = 1 - pairs.union.spectral_gap
        assert consensus_rate(pairs) == pytest.approx(expected**0.5, rel=0.1)
        assert consensus_rate(peers) == pytest.approx(((n - 2) / (2 * (n - 1))) ** 0.5, rel=0.15)


def test_consensus_rate_of_other_matrices() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6], [0.1, 0.0, 0.9]])
    one, other = (fs.topology.from_matrix(W, directed=True) for W in (rows, rows.T))
    left = torch.linalg.eigvals(rows.double()).abs().sort().values[-2]
    for graph in (one, other):
        many = fs.topology.sequence([graph] * 60)
        assert consensus_rate(many) == pytest.approx(float(left), rel=0.05)


@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_extrapolated_growth(gamma: float) -> None:
    """Of a graph that stays, from the roots of z^2 - 2 l z + l, l being W's eigenvalues."""
    for graph in (fs.topology.ring(7), fs.topology.torus(3, 4), fs.topology.star(5)):
        eigenvalues = 1 - gamma + gamma * torch.linalg.eigvalsh(graph.W)[:-1]
        z = [abs(r) for e in eigenvalues.tolist() for r in np.roots([1, -2 * e, e])]
        assert extrapolated_growth(graph, gamma) == pytest.approx(max(z), rel=1e-6)


def test_texts() -> None:
    for text in (
        *(
            "directed-ring",
            "one-peer-exponential",
            "one-peer-exponential:undirected",
            "base-graph:2",
        ),
        *("matchings:7", "equi-dyn:7", "equi-dyn:undirected:7", "matcha:0.5:7:torus:2x3"),
    ):
        schedule = fs.topology.parse(text, 6)
        assert schedule.name == text and schedule.agents == 6
        assert (
            fs.topology.is_drawn(text)
            == (schedule.period is None)
            == fs.topology.is_drawn(schedule)
        )
    for text, whole in (("matchings", "matchings:0"), ("matcha:0.5", "matcha:0.5:0:ring")):
        assert fs.topology.parse(text, 6).name == whole
    for text in ("matcha", "base-graph", "equi-dyn:x", "one-peer-exponential:directed"):
        with pytest.raises(ValueError, match="unknown topology"):
            fs.topology.parse(text, 6)
    with pytest.raises(ValueError, match="matcha takes apart a graph that stays, got Schedule"):
        fs.topology.parse("matcha:0.5:matchings", 6)
