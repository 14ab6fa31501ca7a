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
    "Topology",
    "base_graph",
    "binary_tree",
    "chain",
    "check_topology",
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
    "is_drawn",
    "matcha",
    "matchings",
    "names",
    "one_peer_exponential",
    "parse",
    "random_regular",
    "resolve",
    "ring",
    "row_stochastic",
    "sequence",
    "social_network",
    "spelled",
    "star",
    "torus",
]


def ring(n: int) -> Topology:
    """Each agent talks to the one before and the one after; ring(2) is a pair, ring(1) a loner."""
    check_sizes(n=n)
    return _weigh(networkx().circulant_graph(n, [1] if n > 1 else []), "ring")


def torus(rows: int, cols: int) -> Topology:
    """The true two-dimensional torus, a grid that wraps around; agent r * cols + c is at (r, c).

    With one row it is a ring; with two rows, up and down are one neighbor, counted once.
    """
    check_sizes(rows=rows, cols=cols)
    return _weigh(networkx().grid_2d_graph(rows, cols, periodic=True), f"torus:{rows}x{cols}")


def directed_ring(n: int) -> Topology:
    """Each agent hears the one before it alone, in equal parts with itself: W_ii = W_i,i-1 = 1/2, doubly stochastic."""
    check_sizes(n=n)
    return of_hops("directed-ring", n, [1])


def directed_exponential(n: int) -> Topology:
    """Each agent hears those 1, 2, 4, ... places before it, in equal parts with itself, doubly stochastic.

    Assran et al. 2019, arXiv:1811.10792, and Ying et al. 2021, arXiv:2110.13363, all of whose hops are in each round.
    """
    check_sizes(n=n)
    hops = [2**p for p in range(n.bit_length()) if 2**p < n]
    return of_hops("directed-exponential", n, hops)


def fully_connected(n: int) -> Topology:
    """Everybody talks to everybody: W = 11^T / n, so a gossip round is an exact average."""
    check_sizes(n=n)
    return _weigh(networkx().complete_graph(n), "fully-connected")


def exponential(n: int) -> Topology:
    """Agents 1, 2, 4, ... places away, in both directions: the undirected exponential graph.

    Assran et al. 2019, arXiv:1811.10792, and Ying et al. 2021, arXiv:2110.13363, direct its edges.
    """
    check_sizes(n=n)
    hops = [2**p for p in range(n.bit_length()) if 2**p < n]
    return _weigh(networkx().circulant_graph(n, hops), "exponential")


def star(n: int) -> Topology:
    """Agent 0 talks to everybody, the others only to agent 0."""
    check_sizes(n=n)
    return _weigh(networkx().star_graph(n - 1), "star")


def chain(n: int) -> Topology:
    """Each agent talks to the one before and the one after, the ends to one: the tree with the largest diameter."""
    check_sizes(n=n)
    return _weigh(networkx().path_graph(n), "chain")


def binary_tree(n: int) -> Topology:
    """Agent i talks to agents 2i + 1 and 2i + 2, as far as they exist, and to the one that it hangs from."""
    check_sizes(n=n)
    return _weigh(networkx().full_rary_tree(2, n), "binary-tree")


def dyck() -> Topology:
    """The Dyck graph, 32 agents of degree 3, as its LCF code [5, -5, 13, -13]^8 defines it."""
    return _weigh(networkx().LCF_graph(32, [5, -5, 13, -13], 8), "dyck")


def social_network() -> Topology:
    """Davis's Southern women: 18 women, then 14 events they attended; 32 agents and 89 edges.

    Davis, Gardner and Gardner 1941, "Deep South"; used by Lin et al. 2021, arXiv:2102.04761.
    """
    return _weigh(networkx().davis_southern_women_graph(), "social-network")


def random_regular(n: int, d: int, seed: int = 0) -> Topology:
    """A graph drawn at random among those where every agent has d neighbors.

    Raises ValueError where n * d is odd, d is not in [0, n), or the draw is disconnected.
    """
    check_sizes(n=n)
    if not isinstance(d, Integral) or not 0 <= d < n or n * d % 2:
        raise ValueError(f"d must be an integer in [0, n) with n * d even, got d={d!r}, n={n}")
    # the drawn graph lists its nodes in the order of its edges
    graph = networkx().empty_graph(n)
    graph.add_edges_from(networkx().random_regular_graph(d, n, seed=seed).edges)
    return _weigh(graph, f"random-regular:{d}:{seed}", remedy="raise d or change the seed")


def erdos_renyi(n: int, p: float, seed: int = 0) -> Topology:
    """Every pair of agents is linked with probability p, drawn from this seed and no other.

    Raises ValueError where p is not in (0, 1] or the draw is disconnected.
    """
    check_sizes(n=n)
    if not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1], got {p!r}")
    graph = networkx().gnp_random_graph(n, p, seed=seed)
    return _weigh(graph, f"erdos-renyi:{p}:{seed}", remedy="raise p or change the seed")


def from_networkx(G: "nx.Graph") -> Topology:
    """Any undirected simple graph; agents are its nodes as iterated, edge weights are not used.

    Raises ValueError for directed graphs, multigraphs, self loops, no nodes, or several components.
    """
    if not isinstance(G, networkx().Graph) or G.is_directed() or G.is_multigraph():
        raise ValueError(
            f"G must be an undirected simple graph, got a {type(G).__name__}; of a directed one give the mixing "
            "matrix: from_matrix(W, directed=True)"
        )
    if loops := networkx().number_of_selfloops(G):
        raise ValueError(f"G must have no self loops, got {loops}")
    if not len(G):
        raise ValueError("G must have at least one node, got none")
    return _weigh(G, "networkx")


def from_matrix(
    W: ArrayLike | torch.Tensor,
    *,
    require_symmetric: bool = True,
    allow_disconnected: bool = False,
    directed: bool = False,
) -> Topology:
    """Any mixing matrix `[agents, agents]`: an array, nested lists or a tensor. It is copied.

    Raises ValueError unless W is square, finite, non-negative, row-stochastic and symmetric (both
    within 1e-6) and connected. `directed=True` admits any that is row- or column-stochastic, whose
    `kind` says which: W[i, j] is what agent i takes of agent j, so that whoever sends p_ji to i
    writes it into W[i, j]. `require_symmetric=False` admits row-stochastic ones alone;
    `allow_disconnected=True` admits W = I, agents that never talk, and graphs of a `sequence`.
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
    """What a command line names, such as `ring`, `torus:4x4`, `erdos-renyi:0.3:7` or `matchings`.

    `torus` alone is the most square grid of `agents`; a missing seed is 0. Underscores stand for hyphens too.

    Raises ValueError for a text of no known form, or one that means another number of agents.
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
    """The names of all topologies that a text can mean, without what follows a colon."""
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
    seed = next((g for g in given if isinstance(g, int)), 0)
    graph = parse(next((g for g in given if isinstance(g, str)), "ring"), n)
    if not isinstance(graph, Topology):
        raise ValueError(f"matcha takes apart a graph that stays, got {graph!r}")
    return matcha(graph, budget, seed)


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
        lambda n, *given: equi_dyn(
            n, *(g for g in given if g != UNDIRECTED), directed=UNDIRECTED not in given
        ),
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
