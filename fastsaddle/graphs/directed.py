"""Weights for graphs that point one way: shares of what is sent, or of what is heard."""

from __future__ import annotations

from functools import lru_cache

import torch

from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import DOUBLY, SYMMETRIC, Kind, Topology
from fastsaddle.graphs.schedule import Schedule, kept, kind_of, most_neighbors


def column_stochastic(graph: Schedule) -> Schedule:
    """The same edges with P_ij = 1 / (1 + how many hear j): each agent halves, thirds, ... what it sends.

    Sums are kept along it (push-sum, Assran et al. 2019, arXiv:1811.10792). A W whose columns sum to one stays.
    """
    return _weighed(graph, "column-stochastic")


def row_stochastic(graph: Schedule) -> Schedule:
    """The same edges with R_ij = 1 / (1 + how many i hears): each agent takes the mean of itself and those.

    Agents that agree stay so. A W whose rows sum to one stays.

    Raises:
        ValueError: a directed graph with `fs.Faults`, which keep sums of columns alone.
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
        self.schedule, self.kind = schedule, kind
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
