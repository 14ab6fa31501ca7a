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
SYMMETRIC, DOUBLY = "symmetric doubly stochastic", "doubly stochastic"


# whose spectral gap takes no time
MOST_AT_ONCE = 512


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """A graph of agents with its mixing matrix; made by the functions of `fs.topology`.

    `W` is `[agents, agents]` float64 on the CPU. Row i says what agent i receives:
    x_i <- sum_j W_ij x_j. It is a `Schedule` of one graph that stays.
    """

    name: str
    W: torch.Tensor

    @property
    def period(self) -> int:
        """As a schedule: its one graph is there in every round."""
        return 1

    @property
    def union(self) -> "Topology":
        """As a schedule: all edges are its own."""
        return self

    def at(self, round: int) -> "Topology":
        """As a schedule: itself, whatever the round is."""
        return self

    @cached_property
    def kind(self) -> Kind:
        """What W is, to within 1e-6: the strongest that holds.

        "symmetric doubly stochastic", "doubly stochastic" (a directed graph whose gossip keeps the mean),
        "row-stochastic" (agents that agree stay so, their mean drifts before) or "column-stochastic" (sums are kept,
        for push-sum).
        """
        rows, columns = ((self.W.sum(dim) - 1).abs().max() <= ROUNDING for dim in (1, 0))
        if (self.W - self.W.T).abs().max() <= ROUNDING:
            return "symmetric doubly stochastic"
        if rows and columns:
            return "doubly stochastic"
        return "row-stochastic" if rows else "column-stochastic"

    @property
    def agents(self) -> int:
        """How many agents talk."""
        return self.W.shape[0]

    @cached_property
    def neighbors(self) -> tuple[tuple[int, ...], ...]:
        """For each agent i the agents j != i with W_ij > 0, ascending."""
        heard = self._links.nonzero()[:, 1].tolist()
        ends = accumulate(self._links.sum(1).tolist(), initial=0)
        return tuple(tuple(heard[first:end]) for first, end in pairwise(ends))

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

    def mixing_lists(
        self, consensus_step: float = 1.0, columns: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return M = (1 - gamma) I + gamma W, gamma being `consensus_step`, as a list per agent.

        Indices are `[agents, K]` int32 and weights `[agents, K]` float32, K being the largest
        degree plus one: the agent itself, its neighbors ascending, then index -1 and weight 0.
        The self weight is what the rounded neighbor weights leave of one. Where float32 cannot hold
        that, the row is rounded to multiples of 2^-24: every row sums to one exactly, so the mean
        of agents that agree never drifts. With `columns`, which None makes of a column-stochastic
        W, the same is said of columns, and the sum of the agents never drifts. Weights are within
        1e-7 of M.

        Raises ValueError for a consensus_step outside [0, 1].
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
