"""Who talks to whom: communication graphs, their mixing matrices W, and schedules of graphs that change.

Every graph gets Metropolis-Hastings weights, W_ij = 1 / (max(d_i, d_j) + 1) on its edges and the
rest on the diagonal (Xiao, Boyd and Lall 2005, "A scheme for robust distributed sensor fusion based
on average consensus"); at equal degrees d they are the uniform 1 / (d + 1), so 1/3 on a ring. W is
then symmetric, doubly stochastic and non-negative: a gossip round keeps the mean of the agents and
leaves at most 1 - spectral_gap of their distance to it.
"""

import re
from collections.abc import Callable
from math import isqrt
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from numpy.typing import ArrayLike

from fastsaddle.graphs.base_graph import base_graph
from fastsaddle.graphs.directed import column_stochastic, row_stochastic
from fastsaddle.graphs.equi_dyn import equi_dyn
from fastsaddle.graphs.hops import of_hops
from fastsaddle.graphs.matcha import matcha
from fastsaddle.graphs.matchings import matchings
from fastsaddle.graphs.mixing_matrix import (
    ROUNDING,
    Topology,
    check_connected,
    check_sizes,
    networkx,
)
from fastsaddle.graphs.one_peer import one_peer_exponential
from fastsaddle.graphs.schedule import Schedule, is_schedule, sequence

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "base_graph",
    "binary_tree",
    "chain",
    "column_stochastic",
    "directed_exponential",
    "directed_ring",
    "dyck",
    "equi_dyn",
    "erdos_renyi",
    "exponential",
    "from_matrix",
    "from_networkx",
    "fully_connected",
    "matcha",
    "matchings",
    "names",
    "one_peer_exponential",
    "parse",
    "random_regular",
    "ring",
    "row_stochastic",
    "sequence",
    "social_network",
    "star",
    "torus",
]


def ring(n: int) -> Topology:
    """Each agent talks to the one before it and the one after it.

    W has 1/3 for an agent itself and for each of its two neighbors. `ring(2)` is a pair, `ring(1)` a single agent.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.ring(16)
        Topology(ring, agents=16, spectral_gap=0.0507)
        >>> fs.topology.ring(4).neighbors
        ((1, 3), (0, 2), (1, 3), (0, 2))
    """
    check_sizes(n=n)
    return _weigh(networkx().circulant_graph(n, [1] if n > 1 else []), "ring")


def torus(rows: int, cols: int) -> Topology:
    """A two-dimensional grid that wraps around: each agent talks to the four beside it.

    Agent r * cols + c is at row r and column c. With one row it is a ring; with two rows the agent above is also the
    one below, and is counted once.

    Args:
        rows: number of rows, >= 1.
        cols: number of columns, >= 1; there are rows * cols agents.

    Raises:
        ValueError: rows or cols is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.torus(4, 4)
        Topology(torus:4x4, agents=16, spectral_gap=0.4)
    """
    check_sizes(rows=rows, cols=cols)
    return _weigh(networkx().grid_2d_graph(rows, cols, periodic=True), f"torus:{rows}x{cols}")


def directed_ring(n: int) -> Topology:
    """A ring that points one way: each agent hears only the one before it.

    W_ii = W_i,i-1 = 1/2, which is doubly stochastic but not symmetric.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.directed_ring(3).W
        tensor([[0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000]], dtype=torch.float64)
        >>> fs.topology.directed_ring(3).kind
        'doubly stochastic'
    """
    check_sizes(n=n)
    return of_hops("directed-ring", n, [1])


def directed_exponential(n: int) -> Topology:
    """Each agent hears those 1, 2, 4, 8 and so on places before it, all with the same weight as itself.

    W is doubly stochastic but not symmetric. Assran et al. 2019 (arXiv:1811.10792) and Ying et al. 2021
    (arXiv:2110.13363); `one_peer_exponential` takes one of these hops a round.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.directed_exponential(16).neighbors[8]
        (0, 4, 6, 7)
    """
    check_sizes(n=n)
    hops = [2**p for p in range(n.bit_length()) if 2**p < n]
    return of_hops("directed-exponential", n, hops)


def fully_connected(n: int) -> Topology:
    """Every agent talks to every other: W = 11^T / n, so one gossip round is an exact average.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.fully_connected(8)
        Topology(fully-connected, agents=8, spectral_gap=1)
    """
    check_sizes(n=n)
    return _weigh(networkx().complete_graph(n), "fully-connected")


def exponential(n: int) -> Topology:
    """Each agent talks to those 1, 2, 4, 8 and so on places away, in both directions.

    This is the undirected form of the exponential graph of Assran et al. 2019 (arXiv:1811.10792) and Ying et al. 2021
    (arXiv:2110.13363); `directed_exponential` is theirs.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.exponential(16)
        Topology(exponential, agents=16, spectral_gap=0.5)
    """
    check_sizes(n=n)
    hops = [2**p for p in range(n.bit_length()) if 2**p < n]
    return _weigh(networkx().circulant_graph(n, hops), "exponential")


def star(n: int) -> Topology:
    """Agent 0 talks to every other agent; the others talk only to agent 0.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.star(4).neighbors
        ((1, 2, 3), (0,), (0,), (0,))
    """
    check_sizes(n=n)
    return _weigh(networkx().star_graph(n - 1), "star")


def chain(n: int) -> Topology:
    """A ring with one link removed: each agent talks to the one before it and the one after it.

    The two ends have one neighbor each. It is the tree of largest diameter.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.chain(4).neighbors
        ((1,), (0, 2), (1, 3), (2,))
    """
    check_sizes(n=n)
    return _weigh(networkx().path_graph(n), "chain")


def binary_tree(n: int) -> Topology:
    """A binary tree: agent i talks to its parent and to its children, agents 2i + 1 and 2i + 2.

    Args:
        n: number of agents, >= 1.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.binary_tree(7).neighbors[1]
        (0, 3, 4)
    """
    check_sizes(n=n)
    return _weigh(networkx().full_rary_tree(2, n), "binary-tree")


def dyck() -> Topology:
    """The Dyck graph: 32 agents with three neighbors each.

    Built from its LCF code [5, -5, 13, -13]^8 (Frucht 1977).

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.dyck()
        Topology(dyck, agents=32, spectral_gap=0.191)
    """
    return _weigh(networkx().LCF_graph(32, [5, -5, 13, -13], 8), "dyck")


def social_network() -> Topology:
    """The Southern women graph: 18 women and the 14 events that they attended, 32 agents with 89 edges.

    Davis, Gardner and Gardner 1941, "Deep South"; used by Lin et al. 2021 (arXiv:2102.04761). The women come first.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.social_network()
        Topology(social-network, agents=32, spectral_gap=0.0821)
    """
    return _weigh(networkx().davis_southern_women_graph(), "social-network")


def random_regular(n: int, d: int, seed: int = 0) -> Topology:
    """A random graph in which every agent has d neighbors.

    Args:
        n: number of agents, >= 1.
        d: neighbors of each agent, in [0, n); n * d must be even.
        seed: seed of the draw; the same seed gives the same graph.

    Raises:
        ValueError: n or d is out of range, n * d is odd, or the drawn graph is not connected.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.random_regular(16, 4, seed=1)
        Topology(random-regular:4:1, agents=16, spectral_gap=0.278)
    """
    check_sizes(n=n)
    if not isinstance(d, Integral) or not 0 <= d < n or n * d % 2:
        raise ValueError(f"d must be an integer in [0, n) with n * d even, got d={d!r}, n={n}")
    # the drawn graph lists its nodes in the order of its edges
    graph = networkx().empty_graph(n)
    graph.add_edges_from(networkx().random_regular_graph(d, n, seed=seed).edges)
    return _weigh(graph, f"random-regular:{d}:{seed}", remedy="raise d or change the seed")


def erdos_renyi(n: int, p: float, seed: int = 0) -> Topology:
    """A random graph in which every pair of agents is linked with probability p.

    Erdos and Renyi 1959. The draw depends on this seed alone, not on a global generator.

    Args:
        n: number of agents, >= 1.
        p: probability of a link, in (0, 1].
        seed: seed of the draw; the same seed gives the same graph.

    Raises:
        ValueError: n or p is out of range, or the drawn graph is not connected.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.erdos_renyi(16, 0.4, seed=7)
        Topology(erdos-renyi:0.4:7, agents=16, spectral_gap=0.238)
    """
    check_sizes(n=n)
    if not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1], got {p!r}")
    graph = networkx().gnp_random_graph(n, p, seed=seed)
    return _weigh(graph, f"erdos-renyi:{p}:{seed}", remedy="raise p or change the seed")


def from_networkx(G: "nx.Graph") -> Topology:
    """The topology of any simple graph of networkx, undirected or directed.

    Links of an undirected graph get Metropolis-Hastings weights. Edges of a `DiGraph` point from who sends to who
    hears, and agents send equal parts: W_ji = W_ii = 1 / (1 + how many hear i) for each edge (i, j). Columns then sum
    to one, for push-sum (Assran et al. 2019, arXiv:1811.10792) and `fs.PushPull`; W is doubly stochastic where all
    agents hear, and are heard by, equally many. `row_stochastic` of the topology weighs what is heard instead.

    Args:
        G: a `Graph` or a `DiGraph`. Agents are numbered in the order in which it lists its nodes; weights of its edges
            are not used.

    Raises:
        ValueError: G is a multigraph, has self loops, no nodes, or is not connected, a directed one strongly.

    Example:
        >>> import networkx as nx
        >>> import fastsaddle as fs
        >>> fs.topology.from_networkx(nx.petersen_graph())
        Topology(networkx, agents=10, spectral_gap=0.5)
        >>> fs.topology.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)])).kind
        'column-stochastic'
    """
    if not isinstance(G, networkx().Graph) or G.is_multigraph():
        raise ValueError(
            f"G must be a simple graph, a Graph or a DiGraph, got a {type(G).__name__}"
        )
    if loops := networkx().number_of_selfloops(G):
        raise ValueError(f"G must have no self loops, got {loops}")
    if not len(G):
        raise ValueError("G must have at least one node, got none")
    return _divide(G, "networkx") if G.is_directed() else _weigh(G, "networkx")


def from_matrix(
    W: ArrayLike | torch.Tensor,
    *,
    require_symmetric: bool = True,
    allow_disconnected: bool = False,
    directed: bool = False,
) -> Topology:
    """The topology of any mixing matrix of your own.

    `kind` of the result says what W is. W[i, j] is the weight that agent i gives to what it hears from agent j. If you
    know what each agent sends, p_ji from j to i, write it into W[i, j].

    Args:
        W: the mixing matrix `[agents, agents]`: an array, nested lists or a tensor. It is copied as float64.
        require_symmetric: False also takes a W that is row-stochastic but not symmetric.
        allow_disconnected: True also takes graphs in several parts, such as W = I or one graph of a `sequence`.
        directed: True also takes any W that is row- or column-stochastic.

    Raises:
        ValueError: W is not square, not finite, or negative somewhere; its rows do not sum to one, or it is not
            symmetric (both within 1e-6, and unless the options allow it); or it is not connected.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.from_matrix([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        Topology(matrix, agents=3, spectral_gap=0.5)
    """
    matrix = torch.as_tensor(W, dtype=torch.float64, device="cpu").detach().clone()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"W must be square with at least one row, got shape {[*matrix.shape]}")
    for i, j in (~matrix.isfinite()).nonzero().tolist():
        raise ValueError(f"W must be finite, got W[{i}, {j}] = {matrix[i, j]:g}")
    for i, j in (matrix < 0).nonzero().tolist():
        raise ValueError(f"W must be non-negative, got W[{i}, {j}] = {matrix[i, j]:g}")
    sums, columns = matrix.sum(1), matrix.sum(0)
    keeps_sums = directed and bool(((columns - 1).abs() <= ROUNDING).all())
    for (i,) in ((sums - 1).abs() > ROUNDING).nonzero().tolist():
        if not keeps_sums:
            also = " or column-stochastic" if directed else ""
            raise ValueError(f"W must be row-stochastic{also}, got row {i} with sum {sums[i]:.9g}")
    skewed = ((matrix - matrix.T).abs() > ROUNDING) & (require_symmetric and not directed)
    for i, j in skewed.nonzero().tolist():
        raise ValueError(
            "W must be symmetric (SADDLe and gossip methods need a symmetric doubly stochastic W), "
            f"got W[{i}, {j}] = {matrix[i, j]:.9g} and W[{j}, {i}] = {matrix[j, i]:.9g}"
        )
    if not allow_disconnected:
        check_connected(networkx().DiGraph(matrix.nonzero().tolist()), "W")
    return Topology("matrix", matrix)


def parse(text: str, agents: int) -> Schedule:
    """The topology or schedule that a text names, as on the command line.

    Args:
        text: such as "ring", "torus:4x4", "erdos-renyi:0.3:7" or "matchings". "torus" alone is the most square grid; a
            seed that is left out is 0. Underscores may stand for hyphens. `names` lists all names.
        agents: number of agents, >= 1.

    Returns:
        An `fs.Topology`, or a schedule where the graph changes.

    Raises:
        ValueError: the text has no known form or means another number of agents, or `agents` is not a whole number >=
            1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.parse("torus:2x8", 16)
        Topology(torus:2x8, agents=16, spectral_gap=0.146)
    """
    check_sizes(agents=agents)
    for pattern, build in _FORMS.values():
        if match := re.fullmatch(pattern, spelled(text)):
            numbers = [_number(g) for g in match.groups() if g]
            return resolve(build(agents, *numbers), agents)
    raise ValueError(f"unknown topology {text!r}; known: {', '.join(_FORMS)}")


def _number(text: str) -> int | float | str:
    """A part of a text: a number where it is one."""
    if text.isdigit():
        return int(text)
    return float(text) if re.fullmatch(r"\d*\.?\d+(?:e-?\d+)?", text) else text


def spelled(text: str) -> str:
    """A topology's text as options spell it, with hyphens; one of no known name as it is."""
    name, colon, rest = text.partition(":")
    with_hyphens = name.replace("_", "-")
    return with_hyphens + colon + rest if with_hyphens in names() else text


def names() -> tuple[str, ...]:
    """The names that `parse` knows, without what may follow a colon.

    Returns:
        The names, in the order in which error messages list them.

    Example:
        >>> import fastsaddle as fs
        >>> "ring" in fs.topology.names()
        True
    """
    return tuple(dict.fromkeys(re.split(r"[:\[]", form)[0] for form in _FORMS))


def resolve(topology: Schedule | str, agents: int) -> Schedule:
    """The topology or schedule itself or the one its text names, checked to have this number of agents.

    Raises ValueError where the number differs, and as `parse` does.
    """
    check_topology(topology)
    if isinstance(topology, str):
        return parse(topology, agents)
    if topology.agents != agents:
        raise ValueError(f"{topology.name} has {topology.agents} agents, but {agents} are needed")
    return topology


def check_topology(topology: object) -> None:
    """Raise ValueError for what is neither a topology, nor a schedule of some period or none, nor a text."""
    if not isinstance(topology, str) and not is_schedule(topology):
        raise ValueError(
            f"topology must be a Schedule, a Topology or a string, got {_other(topology)}"
        )
    period = getattr(topology, "period", None)
    if period is not None and (not isinstance(period, Integral) or period < 1):
        raise ValueError(
            f"the period of a schedule must be a whole number >= 1, or None, got {period!r}"
        )


def is_drawn(topology: Schedule | str) -> bool:
    """Whether its graphs, or those that a text names, never come again."""
    if isinstance(topology, str):
        return spelled(topology).partition(":")[0] in DRAWN
    return topology.period is None


def _other(given: object) -> str:
    """What was given in a topology's place, with what makes a topology of it."""
    kind = type(given).__name__
    if isinstance(given, networkx().Graph):
        return f"a networkx {kind}: fs.topology.from_networkx(graph) makes a topology of it"
    if hasattr(given, "__array__") or isinstance(given, (list, tuple)):
        return f"a matrix ({kind}): fs.topology.from_matrix(W) makes a topology of it"
    if callable(given):
        name = getattr(given, "__name__", kind)
        return f"the callable {name}: call it, as in fs.topology.ring(16)"
    return repr(given)


def _most_square_torus(n: int) -> Topology:
    rows = max(r for r in range(1, isqrt(n) + 1) if n % r == 0)
    return torus(rows, n // rows)


def _matcha_of(n: int, budget: float, *given: int | str) -> Schedule:
    """With the seed and the graph that a text names, 0 and the ring where it names none."""
    graph = parse(next((g for g in given if isinstance(g, str)), "ring"), n)
    if not isinstance(graph, Topology):
        raise ValueError(f"matcha takes apart a graph that stays, got {graph!r}")
    return matcha(graph, budget, _seed_in(given))


def _equi_dyn_of(n: int, *given: int | str) -> Schedule:
    return equi_dyn(n, _seed_in(given), directed=UNDIRECTED not in given)


def _seed_in(given: tuple[int | str, ...]) -> int:
    """The seed that a text names, 0 where it names none."""
    return next((g for g in given if isinstance(g, int)), 0)


def _torus_of(n: int, rows: int, cols: int) -> Topology:
    # before it is made: it may be of any size
    if rows * cols != n:
        raise ValueError(f"torus:{rows}x{cols} has {rows * cols} agents, but {n} are needed")
    return torus(rows, cols)


UNDIRECTED = "undirected"
# texts whose graphs are drawn anew for each round
DRAWN = ("matchings", "matcha", "equi-dyn")
# how a text is written -> its pattern, and what builds it from the number of agents and the groups
_FORMS: dict[str, tuple[str, Callable[..., Schedule]]] = {
    "ring": (r"ring", ring),
    "fully-connected": (r"fully-connected", fully_connected),
    "exponential": (r"exponential", exponential),
    "star": (r"star", star),
    "chain": (r"chain", chain),
    "binary-tree": (r"binary-tree", binary_tree),
    "dyck": (r"dyck", lambda n: dyck()),
    "social-network": (r"social-network", lambda n: social_network()),
    "torus": (r"torus", _most_square_torus),
    "torus:ROWSxCOLS": (r"torus:(\d+)x(\d+)", _torus_of),
    "directed-ring": (r"directed-ring", directed_ring),
    "directed-exponential": (r"directed-exponential", directed_exponential),
    "one-peer-exponential[:undirected]": (
        r"one-peer-exponential(?::(undirected))?",
        lambda n, *undirected: one_peer_exponential(n, directed=not undirected),
    ),
    "base-graph:NEIGHBORS": (r"base-graph:(\d+)", base_graph),
    "equi-dyn[:undirected][:SEED]": (
        r"equi-dyn(?::(undirected))?(?::(\d+))?",
        _equi_dyn_of,
    ),
    "matchings[:SEED]": (r"matchings(?::(\d+))?", matchings),
    "matcha:BUDGET[:SEED][:GRAPH]": (
        r"matcha:(\d*\.?\d+)(?::(\d+))?(?::([a-z].*))?",
        _matcha_of,
    ),
    "random-regular:DEGREE[:SEED]": (r"random-regular:(\d+)(?::(\d+))?", random_regular),
    "erdos-renyi:P[:SEED]": (r"erdos-renyi:(\d*\.?\d+(?:e-?\d+)?)(?::(\d+))?", erdos_renyi),
}


def _weigh(graph: "nx.Graph", name: str, remedy: str = "add edges") -> Topology:
    check_connected(graph.to_directed(), name, remedy)
    edges = [*networkx().convert_node_labels_to_integers(graph).edges]
    i, j = torch.tensor(edges, dtype=torch.int64, device="cpu").reshape(-1, 2).T
    adjacency = torch.zeros(len(graph), len(graph), dtype=torch.float64, device="cpu")
    adjacency[i, j] = adjacency[j, i] = 1
    uniform = 1 / (adjacency.sum(1, keepdim=True) + 1)
    W = adjacency * torch.minimum(uniform, uniform.T)
    # one minus the sum of the row, arranged to be exactly uniform where all degrees are equal
    own = uniform + (adjacency * uniform - W).sum(1, keepdim=True)
    return Topology(name, W + own.squeeze(1).diag())


def _divide(graph: "nx.DiGraph", name: str) -> Topology:
    """Each agent sends equal parts of what it has to those that hear it, and keeps one."""
    check_connected(graph, name)
    heard = torch.eye(len(graph), dtype=torch.float64, device="cpu")
    for i, j in networkx().convert_node_labels_to_integers(graph).edges:
        heard[j, i] = 1
    return Topology(name, heard / heard.sum(0))
