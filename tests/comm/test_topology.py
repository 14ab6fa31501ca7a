"""Topologies: true graphs, properties every mixing matrix must have, and every refusal."""

import copy
import math

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsaddle.graphs import topology

RING_GAPS = {5: ".461", 8: ".195", 10: ".127", 16: ".0507", 20: ".0326", 32: ".0128", 40: ".0082"}
TORUS_GAPS = {(4, 4): ".400", (4, 8): ".117", (4, 5): ".276", (5, 8): ".117"}
GAPS = [
    *((topology.ring(n), gap) for n, gap in RING_GAPS.items()),
    *((topology.torus(*size), gap) for size, gap in TORUS_GAPS.items()),
    (topology.social_network(), ".0821"),
    (topology.dyck(), ".191"),
]

EVERY_KIND = {
    **{f"ring {n}": topology.ring(n) for n in (1, 2, 3, 4, 16)},
    **{f"torus {r}x{c}": topology.torus(r, c) for r, c in ((1, 1), (1, 5), (2, 2), (2, 5), (4, 5))},
    **{f"fully {n}": topology.fully_connected(n) for n in (1, 2, 40)},
    **{f"exponential {n}": topology.exponential(n) for n in (1, 2, 6, 16, 33)},
    **{f"star {n}": topology.star(n) for n in (1, 2, 40)},
    "dyck": topology.dyck(),
    "social": topology.social_network(),
    "regular 0": topology.random_regular(1, 0),
    "regular 3": topology.random_regular(16, 3, seed=7),
    "erdos": topology.erdos_renyi(20, 0.3, seed=7),
    "karate": topology.from_networkx(nx.karate_club_graph()),
    "lazy ring": topology.from_matrix((torch.eye(7) + topology.ring(7).W) / 2),
}
every_kind = pytest.mark.parametrize("graph", EVERY_KIND.values(), ids=EVERY_KIND.keys())


def as_networkx(graph):
    return nx.from_dict_of_lists(dict(enumerate(graph.neighbors)))


def check_mixing_lists(graph, gamma):
    indices, weights = graph.mixing_lists(gamma)
    assert (indices.dtype, weights.dtype) == (torch.int32, torch.float32)
    assert (weights >= 0).all()
    assert (weights.double().sum(1) == 1).all()
    width = 1 + max(len(row) for row in graph.neighbors)
    padded = [[i, *row] + [-1] * (width - 1 - len(row)) for i, row in enumerate(graph.neighbors)]
    assert indices.tolist() == padded
    assert (weights[indices < 0] == 0).all()
    # a spare column takes the padding
    n = graph.agents
    held = weights.new_zeros(n, n + 1).scatter(1, indices.long() % (n + 1), weights).double()
    wanted = (1 - gamma) * torch.eye(n, dtype=torch.float64) + gamma * graph.W
    torch.testing.assert_close(held[:, :n], wanted, rtol=0, atol=1e-7)


@st.composite
def doubly_stochastic(draw):
    """A symmetric doubly stochastic matrix of unequal weights, connected, some of them tiny."""
    n = draw(st.integers(2, 12))
    permutations = draw(st.lists(st.permutations(range(n)), min_size=1, max_size=6))
    shares = [draw(st.floats(1e-9, 1)) for _ in permutations]
    matrix = draw(st.floats(1e-3, 1)) * topology.ring(n).W
    for share, permutation in zip(shares, permutations, strict=True):
        swap = torch.eye(n, dtype=torch.float64)[permutation]
        matrix += share * (swap + swap.T) / 2
    return matrix / matrix.sum(1, keepdim=True).mean()


@pytest.mark.parametrize(("graph", "gap"), GAPS, ids=repr)
def test_spectral_gap_of_true_graphs(graph, gap):
    assert f"{graph.spectral_gap:.{len(gap) - 1}f}" == f"0{gap}"


def test_spectral_gap_of_a_ring_in_closed_form():
    for n in RING_GAPS:
        wanted = 2 / 3 * (1 - math.cos(2 * math.pi / n))
        assert topology.ring(n).spectral_gap == pytest.approx(wanted, rel=1e-12)


@every_kind
def test_mixing_matrix_is_symmetric_doubly_stochastic_and_connected(graph):
    assert graph.W.dtype == torch.float64
    assert torch.equal(graph.W, graph.W.T)
    assert (graph.W >= 0).all()
    assert ((graph.W.sum(1) - 1).abs() < 1e-14).all()
    assert nx.is_connected(as_networkx(graph))
    assert 0 < graph.spectral_gap <= 1


@every_kind
def test_neighbors_are_the_links_of_w_ascending_without_self(graph):
    for i, row in enumerate(graph.neighbors):
        assert list(row) == sorted(set(row) - {i})
        assert set(row) | {i} == set(graph.W[i].nonzero().flatten().tolist())
    assert graph.messages == sum(len(row) for row in graph.neighbors) == 2 * graph.edges


@every_kind
@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.37, 0.0])
def test_mixing_lists_hold_the_matrix_and_rows_sum_to_exactly_one(graph, gamma):
    check_mixing_lists(graph, gamma)


@settings(max_examples=60, deadline=None)
@given(doubly_stochastic(), st.floats(0, 1))
def test_mixing_lists_of_unequal_weights(matrix, gamma):
    check_mixing_lists(topology.from_matrix(matrix), gamma)


@pytest.mark.parametrize("kind", ["ring 16", "torus 4x5", "fully 40", "exponential 33", "dyck"])
def test_regular_graphs_have_uniform_weights_in_both_precisions(kind):
    graph = EVERY_KIND[kind]
    uniform = 1 / (len(graph.neighbors[0]) + 1)
    assert (graph.W[graph.W > 0] == uniform).all()
    _, weights = graph.mixing_lists()
    assert (weights[:, 1:] == torch.tensor(uniform)).all()


@every_kind
def test_a_round_keeps_the_mean_and_contracts_by_lambda_2(graph):
    x = torch.randn(graph.agents, 3, dtype=torch.float64)
    mixed = graph.W @ x
    torch.testing.assert_close(mixed.mean(0), x.mean(0), rtol=0, atol=1e-13)
    before, after = ((y - y.mean(0)).norm() for y in (x, mixed))
    assert after <= (1 - graph.spectral_gap) * before + 1e-12


def test_ring_weights_are_thirds_halves_and_one():
    assert topology.ring(1).W.tolist() == [[1.0]]
    assert topology.ring(2).W.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert topology.ring(5).W[0].tolist() == [1 / 3, 1 / 3, 0, 0, 1 / 3]


def test_irregular_graphs_have_metropolis_hastings_weights():
    graph = topology.social_network()
    for i, row in enumerate(graph.neighbors):
        for j in row:
            assert graph.W[i, j] == 1 / (max(len(row), len(graph.neighbors[j])) + 1)


def test_dyck_is_the_true_dyck_graph():
    graph = topology.dyck()
    assert [len(row) for row in graph.neighbors] == [3] * 32
    assert nx.is_isomorphic(as_networkx(graph), nx.LCF_graph(32, [5, -5, 13, -13], 8))
    spectrum = {-3: 1, -(5**0.5): 6, -1: 9, 1: 9, 5**0.5: 6, 3: 1}
    wanted = torch.tensor([value for value, count in spectrum.items() for _ in range(count)])
    adjacency = torch.linalg.eigvalsh(4 * graph.W - torch.eye(32))
    torch.testing.assert_close(adjacency, wanted.double(), rtol=0, atol=1e-6)


def test_social_network_is_the_southern_women_graph():
    graph = topology.social_network()
    assert (graph.agents, graph.edges, graph.messages) == (32, 89, 178)
    assert nx.is_isomorphic(as_networkx(graph), nx.davis_southern_women_graph())


def test_torus_is_the_product_of_two_rings_even_if_thin():
    for rows, cols in ((3, 3), (4, 4), (4, 5), (5, 8)):
        product = nx.cartesian_product(nx.cycle_graph(rows), nx.cycle_graph(cols))
        graph = topology.torus(rows, cols)
        assert nx.is_isomorphic(as_networkx(graph), product)
        assert set(graph.neighbors[0]) == {1, cols - 1, cols, (rows - 1) * cols}
    assert torch.equal(topology.torus(1, 6).W, topology.ring(6).W)
    assert torch.equal(topology.torus(1, 2).W, topology.ring(2).W)
    assert nx.is_isomorphic(as_networkx(topology.torus(2, 5)), nx.circular_ladder_graph(5))


def test_exponential_hops_go_both_ways():
    assert topology.exponential(16).neighbors[0] == (1, 2, 4, 8, 12, 14, 15)


@pytest.mark.parametrize("text", ["random-regular:3", "erdos-renyi:0.5"])
def test_random_graphs_depend_on_their_seed_only(text):
    first, again, other = (topology.parse(f"{text}:{seed}", 16) for seed in (3, 3, 4))
    assert torch.equal(first.W, again.W)
    assert not torch.equal(first.W, other.W)


def test_from_networkx_takes_edges_from_who_sends_to_who_hears() -> None:
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")])
    nx.set_edge_attributes(graph, 7.0, "weight")
    found = topology.from_networkx(graph)
    third = [[1 / 3, 0, 0.5], [1 / 3, 0.5, 0], [1 / 3, 0.5, 0.5]]
    assert torch.allclose(found.W, torch.tensor(third, dtype=torch.float64), atol=1e-15)
    assert found.kind == "column-stochastic" and found.neighbors == ((2,), (0,), (0, 1))
    same = topology.from_matrix(found.W, directed=True)
    assert torch.equal(same.W, found.W) and same.kind == found.kind
    again = topology.column_stochastic(topology.row_stochastic(found))
    assert torch.allclose(again.W, found.W, atol=1e-15)
    ring = topology.from_networkx(nx.cycle_graph(5, create_using=nx.DiGraph))
    assert torch.equal(ring.W, topology.directed_ring(5).W) and ring.kind == "doubly stochastic"
    assert torch.equal(topology.from_networkx(nx.empty_graph(1, nx.DiGraph)).W, torch.ones(1, 1))


def test_from_networkx_orders_agents_as_iterated_and_ignores_edge_weights():
    graph = nx.Graph()
    graph.add_nodes_from("cab")
    graph.add_edge("a", "b", weight=-7.0)
    graph.add_edge("a", "c", weight=0.0)
    assert topology.from_networkx(graph).neighbors == ((1,), (0, 2), (1,))


@pytest.mark.parametrize("kind", ["tolist", "numpy", "float", "double"])
def test_from_matrix_takes_lists_arrays_and_tensors_and_copies(kind):
    wanted = topology.social_network()
    matrix = getattr(wanted.W.clone(), kind)()
    graph = topology.from_matrix(matrix)
    matrix[0][0] = 7
    torch.testing.assert_close(graph.W, wanted.W, rtol=0, atol=1e-7)
    assert graph.neighbors == wanted.neighbors
    assert graph.spectral_gap == pytest.approx(wanted.spectral_gap, abs=1e-6)


def test_agents_that_never_talk_are_admitted_on_request():
    graph = topology.from_matrix(torch.eye(3), allow_disconnected=True)
    assert (graph.neighbors, graph.edges, graph.spectral_gap) == (((), (), ()), 0, 0)
    indices, weights = graph.mixing_lists()
    assert (indices.tolist(), weights.tolist()) == ([[0], [1], [2]], [[1], [1], [1]])


def test_directed_matrices_are_admitted_on_request():
    matrix = (torch.eye(5) + torch.eye(5).roll(1, 1)) / 2
    graph = topology.from_matrix(matrix, require_symmetric=False)
    assert graph.neighbors == ((1,), (2,), (3,), (4,), (0,))
    assert graph.edges == graph.messages == 5
    assert graph.spectral_gap == pytest.approx(1 - math.cos(math.pi / 5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: topology.ring(0), "n must be an integer >= 1, got 0"),
        (lambda: topology.fully_connected(-1), "got -1"),
        (lambda: topology.exponential(0), "got 0"),
        (lambda: topology.star(2.5), "got 2.5"),
        (lambda: topology.torus(4, 0), "cols must be an integer >= 1, got 0"),
        (lambda: topology.random_regular(5, 3), "even, got d=3, n=5"),
        (lambda: topology.random_regular(4, 4), "got d=4, n=4"),
        (lambda: topology.random_regular(4, -1), "got d=-1, n=4"),
        (lambda: topology.random_regular(6, 1), "has 3 parts: raise d or change the seed"),
        (lambda: topology.erdos_renyi(4, 0), r"p must be in \(0, 1\], got 0"),
        (lambda: topology.erdos_renyi(4, 1.1), "got 1.1"),
        (lambda: topology.erdos_renyi(4, float("nan")), "got nan"),
        (lambda: topology.erdos_renyi(50, 0.01), "parts: raise p or change the seed"),
        (lambda: topology.ring(3).mixing_lists(1.5), r"consensus_step.*\[0, 1\], got 1.5"),
        (lambda: topology.ring(3).mixing_lists(-0.1), "got -0.1"),
        (lambda: topology.parse("ring", 0), "agents must be"),
        (lambda: topology.parse("petersen", 10), "unknown.*'petersen'.*known: ring, fully-.*dyck"),
        (lambda: topology.parse("torus:4", 4), "unknown topology 'torus:4'"),
        (lambda: topology.parse("random-regular", 4), "random-regular:DEGREE"),
        (lambda: topology.parse("torus:4x4", 15), "torus:4x4 has 16 agents, but 15"),
        (lambda: topology.parse("dyck", 16), "dyck has 32 agents, but 16"),
        (lambda: topology.resolve(topology.ring(4), 5), "ring has 4 agents, but 5"),
        (lambda: topology.resolve(None, 5), "a Topology or a string, got None"),
        (lambda: topology.from_networkx(nx.DiGraph([(0, 1)])), "networkx has 2 parts"),
        (lambda: topology.from_networkx(nx.MultiDiGraph([(0, 1)])), "simple.*got a MultiDiGraph"),
        (lambda: topology.from_networkx(nx.DiGraph([(0, 0), (0, 1)])), "no self loops, got 1"),
        (lambda: topology.from_networkx(nx.DiGraph()), "at least one node"),
        (lambda: topology.from_networkx(nx.MultiGraph([(0, 1)])), "got a MultiGraph"),
        (lambda: topology.from_networkx([(0, 1)]), "got a list"),
        (lambda: topology.from_networkx(nx.Graph([(0, 0), (0, 1)])), "no self loops, got 1"),
        (lambda: topology.from_networkx(nx.Graph()), "at least one node"),
        (lambda: topology.from_networkx(nx.Graph([(0, 1), (2, 3)])), "networkx has 2 parts"),
        (lambda: topology.from_matrix([[0.5, 0.5]]), r"square.*shape \[1, 2\]"),
        (lambda: topology.from_matrix(torch.empty(0, 0)), r"one row.*shape \[0, 0\]"),
        (lambda: topology.from_matrix([[1, math.nan], [0, 1]]), r"finite.*W\[0, 1\] = nan"),
        (lambda: topology.from_matrix([[1, 0], [-1, 2]]), r"non-negative.*W\[1, 0\] = -1"),
        (lambda: topology.from_matrix([[0.5, 0.5], [0.5, 0.4]]), "stochastic.*row 1 with sum 0.9"),
        (lambda: topology.from_matrix([[0.9, 0.1], [0.5, 0.5]]), r"symmetric.*\[0, 1\] = 0.1 and"),
        (lambda: topology.from_matrix(torch.eye(3)), "connected, but W has 3 parts"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *((word, getattr(topology, word)(9)) for word in ("ring", "star")),
        *((word, getattr(topology, word)(9)) for word in ("exponential", "chain")),
        ("fully-connected", topology.fully_connected(9)),
        ("binary-tree", topology.binary_tree(9)),
        ("dyck", topology.dyck()),
        ("social-network", topology.social_network()),
        ("torus", topology.torus(3, 4)),
        ("torus:2x6", topology.torus(2, 6)),
        ("random-regular:3", topology.random_regular(8, 3, 0)),
        ("random-regular:3:7", topology.random_regular(8, 3, 7)),
        ("erdos-renyi:0.5", topology.erdos_renyi(9, 0.5, 0)),
        ("erdos-renyi:0.5:7", topology.erdos_renyi(9, 0.5, 7)),
        ("erdos-renyi:1", topology.fully_connected(9)),
    ],
)
def test_parse_reads_every_form(text, wanted):
    graph = topology.parse(text, wanted.agents)
    assert torch.equal(graph.W, wanted.W)
    assert torch.equal(topology.parse(graph.name, wanted.agents).W, wanted.W)
    assert topology.resolve(graph, wanted.agents) is graph
    name, _, rest = text.partition(":")
    earlier = ":".join([name.replace("-", "_"), rest]) if rest else name.replace("-", "_")
    assert topology.spelled(earlier) == text
    assert torch.equal(topology.parse(earlier, wanted.agents).W, wanted.W)


def test_a_text_of_no_known_name_is_left_alone():
    for text in ("my_graph.py:a_b:3", "binary-tree_2", "fully_connected_net"):
        assert topology.spelled(text) == text


def test_topology_is_frozen_hashable_and_copyable():
    graph = topology.ring(16)
    assert repr(graph) == "Topology(ring, agents=16, spectral_gap=0.0507)"
    with pytest.raises(AttributeError):
        graph.W = torch.eye(16)
    twin = copy.deepcopy(graph)
    assert torch.equal(twin.W, graph.W)
    assert {graph, twin} == {twin, graph}


def test_w_stays_on_the_cpu_under_another_default_device():
    with torch.device("meta"):
        graph = topology.star(5)
        indices, weights = graph.mixing_lists(0.3)
    assert torch.equal(graph.W, topology.star(5).W)
    assert indices.device.type == weights.device.type == "cpu"
