"""Weights for graphs that point one way: shares of what is sent, or of what is heard."""

from __future__ import annotations

from functools import lru_cache

import torch

from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import DOUBLY, SYMMETRIC, Kind, Topology
from fastsaddle.graphs.schedule import Schedule, kept, kind_of, most_neighbors


def column_stochastic(graph: Schedule) -> Schedule:
    """The same edges with equal weights by sender: W_ij = 1 / (1 + number of agents that hear j).

    Gossip along it keeps the sum of the agents, which push-sum needs (Assran et al. 2019, arXiv:1811.10792).

    Args:
        graph: a topology or schedule. Where the columns of its W sum to one already, W is left as it is.

    Returns:
        A topology where one was given, otherwise a schedule.

    Example:
        >>> import fastsaddle as fs
        >>> W = [[0.5, 0.5, 0], [0, 0.5, 0.5], [0.25, 0.25, 0.5]]
        >>> graph = fs.topology.from_matrix(W, directed=True)
        >>> fs.topology.column_stochastic(graph).W.sum(0)
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    return _weighed(graph, "column-stochastic")


def row_stochastic(graph: Schedule) -> Schedule:
    """The same edges with equal weights by receiver: W_ij = 1 / (1 + number of agents that i hears).

    Each agent takes the mean of itself and of those it hears. Agents that agree stay so, but gossip may move the mean
    (Xin and Khan 2018, arXiv:1803.02503).

    Args:
        graph: a topology or schedule. Where the rows of its W sum to one already, W is left as it is.

    Returns:
        A topology where one was given, otherwise a schedule.

    Raises:
        ValueError: the graph is directed and has `fs.Faults`, which keep only sums of columns.

    Example:
        >>> import fastsaddle as fs
        >>> W = [[0.5, 0, 0.25], [0.5, 0.5, 0.25], [0, 0.5, 0.5]]
        >>> graph = fs.topology.from_matrix(W, directed=True)
        >>> fs.topology.row_stochastic(graph).W.sum(1)
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    return _weighed(graph, "row-stochastic")


class Reweighed:
    """A schedule's graphs, each with other weights on its edges.

    Args:
        schedule: whose edges they are.
        kind: what W becomes in every round.

    Raises:
        ValueError: graphs with faults, whose agents would not be seen to be down.
    """

    def __init__(self, schedule: Schedule, kind: Kind) -> None:
        if isinstance(schedule, Faulty):
            raise ValueError(
                "where links of a directed graph fall only the sums of columns can be kept, for push-sum: "
                f"got {schedule!r}, which is to be {kind}"
            )
        self.schedule = schedule
        self.kind: Kind = kind
        self.agents, self.name, self.period = schedule.agents, schedule.name, schedule.period
        self.most_neighbors = most_neighbors(schedule)
        self.union = _equal(schedule.union, kind)
        self._of = lru_cache(kept(self.union))(_equal)

    def at(self, round: int) -> Topology:
        return self._of(self.schedule.at(round), self.kind)

    def __getstate__(self) -> tuple[Schedule, Kind]:
        return self.schedule, self.kind

    def __setstate__(self, state: tuple[Schedule, Kind]) -> None:
        Reweighed.__init__(self, *state)

    def __repr__(self) -> str:
        return f"{self.schedule!r} with {self.kind} weights"


def _weighed(graph: Schedule, kind: Kind) -> Schedule:
    if kind_of(graph) in (kind, DOUBLY, SYMMETRIC):
        return graph
    return _equal(graph, kind) if isinstance(graph, Topology) else Reweighed(graph, kind)


def _equal(graph: Topology, kind: Kind) -> Topology:
    """Equal weights of this kind, which a W that has it already keeps."""
    if graph.kind in (kind, DOUBLY, SYMMETRIC):
        return graph
    links = (graph.W > 0).double() + torch.eye(graph.agents, dtype=torch.float64, device="cpu")
    links.clamp_(max=1)
    return Topology(graph.name, links / links.sum(0 if kind == "column-stochastic" else 1, True))
