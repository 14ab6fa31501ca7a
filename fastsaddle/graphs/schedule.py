"""Graphs that change from gossip to gossip: one object that says which graph a round has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch

from fastsaddle.graphs.drawing import html
from fastsaddle.graphs.mixing_matrix import Kind, Topology, check_connected, networkx

Value = TypeVar("Value")
# graphs of the last rounds that were asked for, and bytes that their W may take
KEPT, KEPT_BYTES = 64, 2**26
# rounds that stand for all of them where these never end
LOOKED_AT = 1000
# and those that an estimate is over
ESTIMATED_OVER = 200
# the weakest first
KINDS: tuple[Kind, ...] = (
    "column-stochastic",
    "row-stochastic",
    "doubly stochastic",
    "symmetric doubly stochastic",
)


@runtime_checkable
class Schedule(Protocol):
    """Which graph each gossip has. Gossips are counted from 0, and only those that happen count.

    An `fs.Topology` is a schedule of one graph. Your own is any class with these members; pass it as `topology=`. It
    may also have two attributes that save looking through the rounds: `kind`, what W is in every round (see
    `fs.Topology.kind`), and `most_neighbors`, the largest number of neighbors in any round.

    Example:
        >>> import fastsaddle as fs
        >>> class Alternating:
        ...     agents, name, period = 4, "alternating", 2
        ...     union = fs.topology.fully_connected(4)
        ...     def at(self, round):
        ...         return fs.topology.star(4) if round % 2 else fs.topology.ring(4)
        >>> isinstance(Alternating(), fs.Schedule)
        True
    """

    @property
    def agents(self) -> int:
        """Number of agents."""
        ...

    @property
    def name(self) -> str:
        """The name in messages and tables."""
        ...

    @property
    def period(self) -> int | None:
        """Rounds until the graphs repeat; None if they never do.

        The graphs of a period are put on the device once. Without a period each step asks for its graph on the host.
        """
        ...

    @property
    def union(self) -> Topology:
        """A graph with every edge of any round; its W is the mean of the rounds' W, or their expected value."""
        ...

    def at(self, round: int) -> Topology:
        """The graph of a round.

        Args:
            round: number of the gossip, >= 0; the same number must always give the same graph.

        Returns:
            The graph, which need not be connected.
        """
        ...


class Periodic:
    """Graphs one after the other, again and again.

    Args:
        name: in messages and tables.
        graphs: those of a period, at least one, of the same agents.

    Raises:
        ValueError: no graphs, graphs of several sizes, or ones that together do not connect all agents.
    """

    def __init__(self, name: str, graphs: Sequence[Topology]) -> None:
        if not graphs or not all(isinstance(graph, Topology) for graph in graphs):
            raise ValueError(f"graphs must be one fs.Topology or more, got {list(graphs)!r}")
        sizes = [graph.agents for graph in graphs]
        if len(set(sizes)) > 1:
            raise ValueError(f"graphs of a schedule must have the same agents, got {sizes}")
        self.name, self.graphs, self.agents = name, tuple(graphs), sizes[0]
        mean = torch.stack([graph.W for graph in graphs]).mean(0)
        self.union = Topology(name, mean)
        links = networkx().DiGraph((mean > 0).nonzero().tolist())
        check_connected(links, f"all graphs of {name} together", "add graphs")

    @property
    def period(self) -> int:
        return len(self.graphs)

    def at(self, round: int) -> Topology:
        return self.graphs[round % len(self.graphs)]

    def _repr_html_(self) -> str:
        facts = f"{self.agents} agents, the links of all {self.period} rounds of its period"
        return html(self.name, facts, self.union.W)

    def __repr__(self) -> str:
        return f"Schedule({self.name}, agents={self.agents}, period={self.period})"


class Recent(Generic[Value]):
    """What was made for the last numbers that were asked for; each has its place, which threads may fill at once.

    Args:
        count: how many are kept.
    """

    def __init__(self, count: int) -> None:
        self._held: list[tuple[int, Value] | None] = [None] * count

    def at(self, number: int, make: Callable[[int], Value]) -> Value:
        """That of a number, made where it is not there."""
        place = number % len(self._held)
        held = self._held[place]
        if held is None or held[0] != number:
            held = self._held[place] = number, make(number)
        return held[1]


class Drawn:
    """Base of graphs that are drawn by (seed, round), whichever rounds were asked for before.

    Args:
        name: in messages and tables.
        union: the mean of what is drawn.
        kind: of every graph, by how it is made.
        most: neighbors that an agent has in a round at most.
    """

    period = None

    def __init__(self, name: str, union: Topology, kind: Kind, most: int) -> None:
        self.name, self.union, self.kind, self.agents = name, union, kind, union.agents
        self.most_neighbors = most
        self._last: Recent[Topology] = Recent(kept(union))

    def draw(self, round: int) -> Topology:
        """The graph of a round, made anew."""
        # each schedule has its own
        raise NotImplementedError

    def at(self, round: int) -> Topology:
        return self._last.at(round, self.draw)

    def _repr_html_(self) -> str:
        return html(self.name, f"{self.agents} agents, every link that may be drawn", self.union.W)

    def __repr__(self) -> str:
        return f"Schedule({self.name}, agents={self.agents}, drawn)"


def kept(graph: Topology) -> int:
    """How many graphs of this size are kept once they are made."""
    return min(KEPT, max(1, KEPT_BYTES // graph.W.nbytes))


def sequence(graphs: Sequence[Topology], name: str = "sequence") -> Schedule:
    """A schedule of graphs of your own, one for each gossip, starting again after the last.

    A single graph may leave agents alone, see `from_matrix(W, allow_disconnected=True)`; all of them together must
    connect every agent.

    Args:
        graphs: topologies with the same number of agents, at least one.
        name: the name in messages and tables.

    Raises:
        ValueError: no graphs, something that is no topology, different numbers of agents, or agents that stay
            unconnected.

    Example:
        >>> import fastsaddle as fs
        >>> graphs = [fs.topology.ring(8), fs.topology.star(8)]
        >>> fs.topology.sequence(graphs)
        Schedule(sequence, agents=8, period=2)
    """
    return Periodic(name, graphs)


def is_schedule(given: object) -> bool:
    """Whether it says which graph each round has."""
    return isinstance(given, Schedule) and not isinstance(given, type)


def graph_of(schedule: Schedule, round: int) -> Topology:
    """The graph of a round.

    Raises:
        ValueError: a schedule of somebody's own gives something else, other agents, or edges that its union has not.
    """
    graph = schedule.at(round)
    if isinstance(schedule, Topology | Drawn | Periodic):
        return graph
    where = f"at({round}) of the schedule {schedule.name}"
    if not isinstance(graph, Topology) or graph.agents != schedule.agents:
        raise ValueError(
            f"{where} must be an fs.Topology of {schedule.agents} agents, got {graph!r}"
        )
    outside = ((graph.W > 0) & ~(schedule.union.W > 0)).fill_diagonal_(False).nonzero()
    if len(outside):
        i, j = outside[0].tolist()
        raise ValueError(
            f"{where} must have no edges that its union has not, got agent {i} hearing {j}"
        )
    return graph


def rounds_over(schedule: Schedule) -> int:
    """Rounds that means and rates are over: a period, or 200 where there is none."""
    return ESTIMATED_OVER if schedule.period is None else schedule.period


def rounds_of(schedule: Schedule) -> range:
    """Those of a period; the first 1,000 of a schedule that has none."""
    return range(LOOKED_AT if schedule.period is None else schedule.period)


def kind_of(schedule: Schedule) -> Kind:
    """What W is in every round, as `Topology.kind`: the weakest of a period's, or of the first 1,000.

    A schedule whose own `kind` says it, as those that are drawn do, is believed.
    """
    told: Kind | None = getattr(schedule, "kind", None)
    if told is not None:
        return told
    return min((graph_of(schedule, t).kind for t in rounds_of(schedule)), key=KINDS.index)


def most_neighbors(schedule: Schedule) -> int:
    """Neighbors that an agent has in one round at most, or more: those of any round where no period tells."""
    told: int | None = getattr(schedule, "most_neighbors", None)
    if told is not None:
        return told
    graphs = [schedule.union]
    if schedule.period is not None:
        graphs = [graph_of(schedule, t) for t in range(schedule.period)]
    return max(len(near) for graph in graphs for near in graph.neighbors)


def mean_messages(schedule: Schedule) -> float:
    """Models sent by all agents together in one gossip, the mean of a period or of the first 200."""
    rounds = range(rounds_over(schedule))
    return sum(graph_of(schedule, t).messages for t in rounds) / len(rounds)
