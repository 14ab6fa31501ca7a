"""Who talks to whom: communication graphs, their mixing matrices W and their spectral gaps.

Every graph gets Metropolis-Hastings weights, W_ij = 1 / (max(d_i, d_j) + 1) on its edges and the
rest on the diagonal (Xiao, Boyd and Lall 2005, "A scheme for robust distributed sensor fusion based
on average consensus"); at equal degrees d they are the uniform 1 / (d + 1), so 1/3 on a ring. W is
then symmetric, doubly stochastic and non-negative: a gossip round keeps the mean of the agents and
leaves at most 1 - spectral_gap of their distance to it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import networkx as nx

# float32 holds every multiple of this in [0, 1] exactly
_GRID = 2.0**-24


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """A graph of agents with its mixing matrix; made by the functions of this module.

    `W` is `[agents, agents]` float64 on the CPU. Row i says what agent i receives:
    x_i <- sum_j W_ij x_j.
    """

    name: str
    W: torch.Tensor

    @property
    def agents(self) -> int:
        """How many agents talk."""
        return self.W.shape[0]

    @cached_property
    def neighbors(self) -> tuple[tuple[int, ...], ...]:
        """For each agent i the agents j != i with W_ij > 0, ascending."""
        linked = self._links.tolist()
        return tuple(tuple(j for j, link in enumerate(row) if link) for row in linked)

    @property
    def edges(self) -> int:
        """Pairs of agents that are linked, each counted once."""
        return int((self._links | self._links.T).triu().sum())

    @property
    def messages(self) -> int:
        """Models sent by all agents together in one gossip round: the sum of the degrees."""
        return int(self._links.sum())

    @cached_property
    def spectral_gap(self) -> float:
        """1 - |lambda_2(W)|, in [0, 1]: 1 for one agent, 0 where gossip never reaches consensus."""
        if self.agents == 1:
            return 1.0
        symmetric = torch.equal(self.W, self.W.T)
        eigenvalues = torch.linalg.eigvalsh(self.W) if symmetric else torch.linalg.eigvals(self.W)
        return max(0.0, 1.0 - float(eigenvalues.abs().sort().values[-2]))

    def mixing_lists(self, consensus_step: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return M = (1 - gamma) I + gamma W, gamma being `consensus_step`, as a list per agent.

        Indices are `[agents, K]` int32 and weights `[agents, K]` float32, K being the largest
        degree plus one: the agent itself, its neighbors ascending, then index -1 and weight 0.
        The self weight is what the rounded neighbor weights leave of one. Where float32 cannot hold
        that, the row is rounded to multiples of 2^-24: every row sums to one exactly, so the mean
        of agents that agree never drifts. Weights are within 1e-7 of M if its rows sum to one.

        Raises ValueError for a consensus_step outside [0, 1].
        """
        if not 0 <= consensus_step <= 1:
            raise ValueError(f"consensus_step must be in [0, 1], got {consensus_step!r}")
        width = 1 + max(len(row) for row in self.neighbors)
        padded = [[i, *row] + [-1] * (width - 1 - len(row)) for i, row in enumerate(self.neighbors)]
        indices = torch.tensor(padded, dtype=torch.int64, device="cpu")
        exact = consensus_step * self.W.gather(1, indices.clamp(min=0)) * (indices >= 0)

        neighbors = exact[:, 1:].float().double()
        inexact = (own := 1 - neighbors.sum(1)) != own.float().double()
        # rounding running sums, not weights, keeps the self weight as close as the others
        running = (exact[:, 1:].cumsum(1) / _GRID).round() * _GRID
        snapped = running.diff(dim=1, prepend=self.W.new_zeros(self.agents, 1))
        neighbors[inexact] = snapped[inexact]
        own = 1 - neighbors.sum(1, keepdim=True)
        return indices.int(), torch.cat([own, neighbors], dim=1).float()

    @cached_property
    def _links(self) -> torch.Tensor:
        return (self.W > 0).fill_diagonal_(False)

    def __repr__(self) -> str:
        gap = f"{self.spectral_gap:.3g}"
        return f"Topology({self.name}, agents={self.agents}, spectral_gap={gap})"


def ring(n: int) -> Topology:
    """Each agent talks to the one before and the one after; ring(2) is a pair, ring(1) a loner."""
    _check_sizes(n=n)
    return _weigh(_networkx().circulant_graph(n, [1] if n > 1 else []), "ring")


def torus(rows: int, cols: int) -> Topology:
    """The true two-dimensional torus, a grid that wraps around; agent r * cols + c is at (r, c).

    With one row it is a ring; with two rows, up and down are one neighbor, counted once.
    """
    _check_sizes(rows=rows, cols=cols)
    return _weigh(_networkx().grid_2d_graph(rows, cols, periodic=True), f"torus:{rows}x{cols}")


def fully_connected(n: int) -> Topology:
    """Everybody talks to everybody: W = 11^T / n, so a gossip round is an exact average."""
    _check_sizes(n=n)
    return _weigh(_networkx().complete_graph(n), "fully-connected")


def exponential(n: int) -> Topology:
    """Agents 1, 2, 4, ... places away, in both directions: the undirected exponential graph.

    Assran et al. 2019, arXiv:1811.10792, and Ying et al. 2021, arXiv:2110.13363, direct its edges.
    """
    _check_sizes(n=n)
    hops = [2**p for p in range(n.bit_length()) if 2**p < n]
    return _weigh(_networkx().circulant_graph(n, hops), "exponential")


def star(n: int) -> Topology:
    """Agent 0 talks to everybody, the others only to agent 0."""
    _check_sizes(n=n)
    return _weigh(_networkx().star_graph(n - 1), "star")


def chain(n: int) -> Topology:
    """Each agent talks to the one before and the one after, the ends to one: the tree with the largest diameter."""
    _check_sizes(n=n)
    return _weigh(_networkx().path_graph(n), "chain")


def binary_tree(n: int) -> Topology:
    """Agent i talks to agents 2i + 1 and 2i + 2, as far as they exist, and to the one that it hangs from."""
    _check_sizes(n=n)
    return _weigh(_networkx().full_rary_tree(2, n), "binary-tree")


def dyck() -> Topology:
    """The Dyck graph, 32 agents of degree 3, as its LCF code [5, -5, 13, -13]^8 defines it."""
    return _weigh(_networkx().LCF_graph(32, [5, -5, 13, -13], 8), "dyck")


def social_network() -> Topology:
    """Davis's Southern women: 18 women, then 14 events they attended; 32 agents and 89 edges.

    Davis, Gardner and Gardner 1941, "Deep South"; used by Lin et al. 2021, arXiv:2102.04761.
    """
    return _weigh(_networkx().davis_southern_women_graph(), "social-network")


def random_regular(n: int, d: int, seed: int = 0) -> Topology:
    """A graph drawn at random among those where every agent has d neighbors.

    Raises ValueError where n * d is odd, d is not in [0, n), or the draw is disconnected.
    """
    _check_sizes(n=n)
    if not isinstance(d, Integral) or not 0 <= d < n or n * d % 2:
        raise ValueError(f"d must be an integer in [0, n) with n * d even, got d={d!r}, n={n}")
    # the drawn graph lists its nodes in the order of its edges
    graph = _networkx().empty_graph(n)
    graph.add_edges_from(_networkx().random_regular_graph(d, n, seed=seed).edges)
    return _weigh(graph, f"random-regular:{d}:{seed}", remedy="raise d or change the seed")


def erdos_renyi(n: int, p: float, seed: int = 0) -> Topology:
    """Every pair of agents is linked with probability p, drawn from this seed and no other.

    Raises ValueError where p is not in (0, 1] or the draw is disconnected.
    """
    _check_sizes(n=n)
    if not 0 < p <= 1:
        raise ValueError(f"p must be in (0, 1], got {p!r}")
    graph = _networkx().gnp_random_graph(n, p, seed=seed)
    return _weigh(graph, f"erdos-renyi:{p}:{seed}", remedy="raise p or change the seed")


def from_networkx(G: "nx.Graph") -> Topology:
    """Any undirected simple graph; agents are its nodes as iterated, edge weights are not used.

    Raises ValueError for directed graphs, multigraphs, self loops, no nodes, or several components.
    """
    if not isinstance(G, _networkx().Graph) or G.is_directed() or G.is_multigraph():
        raise ValueError(f"G must be an undirected simple graph, got a {type(G).__name__}")
    if loops := _networkx().number_of_selfloops(G):
        raise ValueError(f"G must have no self loops, got {loops}")
    if not len(G):
        raise ValueError("G must have at least one node, got none")
    return _weigh(G, "networkx")


def from_matrix(
    W: ArrayLike | torch.Tensor, *, require_symmetric: bool = True, allow_disconnected: bool = False
) -> Topology:
    """Any mixing matrix `[agents, agents]`: an array, nested lists or a tensor. It is copied.

    Raises ValueError unless W is square, finite, non-negative, row-stochastic and symmetric (both
    within 1e-6) and connected. `require_symmetric=False` is for methods on directed graphs;
    `allow_disconnected=True` admits W = I, agents that never talk.
    """
    matrix = torch.as_tensor(W, dtype=torch.float64, device="cpu").detach().clone()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"W must be square with at least one row, got shape {[*matrix.shape]}")
    for i, j in (~matrix.isfinite()).nonzero().tolist():
        raise ValueError(f"W must be finite, got W[{i}, {j}] = {matrix[i, j]:g}")
    for i, j in (matrix < 0).nonzero().tolist():
        raise ValueError(f"W must be non-negative, got W[{i}, {j}] = {matrix[i, j]:g}")
    sums = matrix.sum(1)
    for (i,) in ((sums - 1).abs() > 1e-6).nonzero().tolist():
        raise ValueError(f"W must be row-stochastic, got row {i} with sum {sums[i]:.9g}")
    skewed = ((matrix - matrix.T).abs() > 1e-6) & require_symmetric
    for i, j in skewed.nonzero().tolist():
        raise ValueError(
            "W must be symmetric (SADDLe and gossip methods need a symmetric doubly stochastic W), "
            f"got W[{i}, {j}] = {matrix[i, j]:.9g} and W[{j}, {i}] = {matrix[j, i]:.9g}"
        )
    if not allow_disconnected:
        _check_connected(_networkx().DiGraph(matrix.nonzero().tolist()), "W")
    return Topology("matrix", matrix)


def parse(text: str, agents: int) -> Topology:
    """The topology that a command line names, such as `ring`, `torus:4x4` or `erdos-renyi:0.3:7`.

    `torus` alone is the most square grid of `agents`; a missing seed is 0. Underscores stand for hyphens too.

    Raises ValueError for a text of no known form, or one that means another number of agents.
    """
    _check_sizes(agents=agents)
    for pattern, build in _FORMS.values():
        if match := re.fullmatch(pattern, spelled(text)):
            numbers = [int(g) if g.isdigit() else float(g) for g in match.groups() if g]
            return resolve(build(agents, *numbers), agents)
    raise ValueError(f"unknown topology {text!r}; known: {', '.join(_FORMS)}")


def spelled(text: str) -> str:
    """A topology's text as options spell it, with hyphens; one of no known name as it is."""
    name, colon, rest = text.partition(":")
    with_hyphens = name.replace("_", "-")
    return with_hyphens + colon + rest if with_hyphens in names() else text


def names() -> tuple[str, ...]:
    """The names of all topologies that a text can mean, without what follows a colon."""
    return tuple(dict.fromkeys(form.split(":")[0] for form in _FORMS))


def resolve(topology: Topology | str, agents: int) -> Topology:
    """The topology itself or the one its text names, checked to have this number of agents.

    Raises ValueError where the number differs, and as `parse` does.
    """
    check_topology(topology)
    if isinstance(topology, str):
        return parse(topology, agents)
    if topology.agents != agents:
        raise ValueError(f"{topology.name} has {topology.agents} agents, but {agents} are needed")
    return topology


def check_topology(topology: object) -> None:
    """Raise ValueError for what is neither a topology nor a text."""
    if not isinstance(topology, (Topology, str)):
        raise ValueError(f"topology must be a Topology or a string, got {_other(topology)}")


def _other(given: object) -> str:
    """What was given in a topology's place, with what makes a topology of it."""
    kind = type(given).__name__
    if isinstance(given, _networkx().Graph):
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


def _torus_of(n: int, rows: int, cols: int) -> Topology:
    # before it is made: it may be of any size
    if rows * cols != n:
        raise ValueError(f"torus:{rows}x{cols} has {rows * cols} agents, but {n} are needed")
    return torus(rows, cols)


# how a text is written -> its pattern, and what builds it from the number of agents and the groups
_FORMS: dict[str, tuple[str, Callable[..., Topology]]] = {
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
    "random-regular:DEGREE[:SEED]": (r"random-regular:(\d+)(?::(\d+))?", random_regular),
    "erdos-renyi:P[:SEED]": (r"erdos-renyi:(\d*\.?\d+(?:e-?\d+)?)(?::(\d+))?", erdos_renyi),
}


def _weigh(graph: "nx.Graph", name: str, remedy: str = "add edges") -> Topology:
    _check_connected(graph.to_directed(), name, remedy)
    edges = [*_networkx().convert_node_labels_to_integers(graph).edges]
    i, j = torch.tensor(edges, dtype=torch.int64, device="cpu").reshape(-1, 2).T
    adjacency = torch.zeros(len(graph), len(graph), dtype=torch.float64, device="cpu")
    adjacency[i, j] = adjacency[j, i] = 1
    uniform = 1 / (adjacency.sum(1, keepdim=True) + 1)
    W = adjacency * torch.minimum(uniform, uniform.T)
    # one minus the sum of the row, arranged to be exactly uniform where all degrees are equal
    own = uniform + (adjacency * uniform - W).sum(1, keepdim=True)
    return Topology(name, W + own.squeeze(1).diag())


def _networkx() -> Any:
    """The package, for those who make a graph: whoever only asks for help need not wait for its import."""
    import networkx

    return networkx


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {size!r}")


def _check_connected(graph: "nx.DiGraph", name: str, remedy: str = "add edges") -> None:
    if (parts := _networkx().number_strongly_connected_components(graph)) > 1:
        raise ValueError(f"a topology must be connected, but {name} has {parts} parts: {remedy}")
