"""A graph of agents with its mixing matrix W, and what W is."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import torch

from fastsaddle.graphs.drawing import html

if TYPE_CHECKING:
    import networkx as nx

# float32 holds every multiple of this in [0, 1] exactly
_GRID = 2.0**-24
# what sums of rows and columns, and the two weights of an edge, may be off by
ROUNDING = 1e-6

Kind = Literal[
    "symmetric doubly stochastic", "doubly stochastic", "row-stochastic", "column-stochastic"
]
SYMMETRIC: Kind = "symmetric doubly stochastic"
DOUBLY: Kind = "doubly stochastic"


# whose spectral gap takes no time
MOST_AT_ONCE = 512


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """A graph of agents with its mixing matrix W; the functions of `fs.topology` make them.

    A topology is an `fs.Schedule` whose graph never changes.

    Args:
        name: the name in messages and tables.
        W: the mixing matrix, `[agents, agents]` float64 on the CPU. Row i says what agent i takes: x_i <- sum_j W_ij
            x_j.

    Example:
        >>> import fastsaddle as fs
        >>> graph = fs.topology.ring(16)
        >>> graph.neighbors[0], graph.edges, graph.messages
        ((1, 15), 16, 32)
        >>> graph.kind
        'symmetric doubly stochastic'
    """

    name: str
    W: torch.Tensor

    @property
    def period(self) -> int:
        """1, because as a schedule it has the same graph in every round."""
        return 1

    @property
    def union(self) -> "Topology":
        """The topology itself, because as a schedule it has no other edges."""
        return self

    def at(self, round: int) -> "Topology":
        """The topology itself, in every round.

        Args:
            round: number of the gossip; not used.
        """
        return self

    @cached_property
    def kind(self) -> Kind:
        """What W is, to within 1e-6; the strongest of four that holds.

        * "symmetric doubly stochastic": undirected gossip, which keeps the mean.
        * "doubly stochastic": directed gossip that keeps the mean.
        * "row-stochastic": agents that agree stay so, but the mean may drift until they do.
        * "column-stochastic": the sum is kept, as push-sum needs.
        """
        rows, columns = ((self.W.sum(dim) - 1).abs().max() <= ROUNDING for dim in (1, 0))
        if (self.W - self.W.T).abs().max() <= ROUNDING:
            return "symmetric doubly stochastic"
        if rows and columns:
            return "doubly stochastic"
        return "row-stochastic" if rows else "column-stochastic"

    @property
    def agents(self) -> int:
        """Number of agents."""
        return self.W.shape[0]

    @cached_property
    def neighbors(self) -> tuple[tuple[int, ...], ...]:
        """For each agent i the agents that it hears, those j != i with W_ij > 0, ascending."""
        heard = self._links.nonzero()[:, 1].tolist()
        ends = accumulate(self._links.sum(1).tolist(), initial=0)
        return tuple(tuple(heard[first:end]) for first, end in pairwise(ends))

    @property
    def edges(self) -> int:
        """Number of linked pairs of agents; a link in both directions counts once."""
        return int((self._links | self._links.T).triu().sum())

    @property
    def messages(self) -> int:
        """Models that all agents together send in one gossip round, the sum of the degrees."""
        return int(self._links.sum())

    @cached_property
    def spectral_gap(self) -> float:
        """1 - |lambda_2(W)|, in [0, 1]. The larger it is, the faster gossip averages.

        It is 1 for a single agent and 0 where gossip never reaches consensus.
        """
        if self.agents == 1:
            return 1.0
        symmetric = torch.equal(self.W, self.W.T)
        eigenvalues = torch.linalg.eigvalsh(self.W) if symmetric else torch.linalg.eigvals(self.W)
        return max(0.0, 1.0 - float(eigenvalues.abs().sort().values[-2]))

    def mixing_lists(
        self, consensus_step: float = 1.0, columns: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """W with the consensus step folded in, M = (1 - gamma) I + gamma W, as a neighbor list for each agent.

        The self weight is one minus the rounded weights of the neighbors. Where float32 cannot hold that exactly, the
        row is rounded to multiples of 2^-24, so that every row sums to exactly one and the mean of agents that agree
        never drifts. Weights are within 1e-7 of M.

        Args:
            consensus_step: gamma, in [0, 1].
            columns: whether the columns, not the rows, sum to exactly one, so that the sum of the agents never drifts;
                None decides by W: True where it is column-stochastic.

        Returns:
            Indices `[agents, K]` int32 and weights `[agents, K]` float32, where K is the largest degree plus one: first
            the agent itself, then its neighbors in ascending order, then index -1 with weight 0.

        Raises:
            ValueError: consensus_step is outside [0, 1].

        Example:
            >>> import fastsaddle as fs
            >>> indices, weights = fs.topology.chain(3).mixing_lists()
            >>> indices
            tensor([[ 0,  1, -1],
                    [ 1,  0,  2],
                    [ 2,  1, -1]], dtype=torch.int32)
        """
        if not 0 <= consensus_step <= 1:
            raise ValueError(f"consensus_step must be in [0, 1], got {consensus_step!r}")
        if self.kind == "column-stochastic" if columns is None else columns:
            return self._lists_of_columns(consensus_step)
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

    def _lists_of_columns(self, consensus_step: float) -> tuple[torch.Tensor, torch.Tensor]:
        """`mixing_lists` with the weights of the transpose's."""
        others, weights = Topology(self.name, self.W.T).mixing_lists(consensus_step, False)
        agents, width = self.agents, 1 + max(len(row) for row in self.neighbors)
        # a spare column takes the padding
        dense = torch.zeros(agents, agents + 1, dtype=torch.float32, device="cpu")
        dense.scatter_(1, others.long() % (agents + 1), weights)
        padded = [[i, *row] + [-1] * (width - 1 - len(row)) for i, row in enumerate(self.neighbors)]
        indices = torch.tensor(padded, dtype=torch.int64, device="cpu")
        kept = dense[:, :agents].T.gather(1, indices.clamp(min=0)) * (indices >= 0)
        return indices.int(), kept

    @cached_property
    def _links(self) -> torch.Tensor:
        return (self.W > 0).fill_diagonal_(False)

    def _repr_html_(self) -> str:
        facts = f"{self.agents} agents, {self.edges} links"
        if self.agents <= MOST_AT_ONCE:
            facts += f", spectral gap {self.spectral_gap:.4g}"
        return html(self.name, facts, self.W)

    def __repr__(self) -> str:
        gap = f"{self.spectral_gap:.3g}"
        return f"Topology({self.name}, agents={self.agents}, spectral_gap={gap})"


def networkx() -> Any:
    """The package, for those who make a graph: whoever only asks for help need not wait for its import."""
    import networkx

    return networkx


def check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {size!r}")


def check_connected(graph: "nx.DiGraph", name: str, remedy: str = "add edges") -> None:
    if (parts := networkx().number_strongly_connected_components(graph)) > 1:
        raise ValueError(f"a topology must be connected, but {name} has {parts} parts: {remedy}")
