"""Who sends which rows to whom: a pure function of the graph and of who holds which agents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from fastsaddle.comm.lists import Lists, padded
from fastsaddle.graphs.topology import Topology
from fastsaddle.ranks.counts import agents_of, owner_of

# (from, to), agents by their numbers
Edge = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Plan:
    """What one rank sends and receives, worked out from the graph and from the counts of agents.

    Both ends of a connection work it out from the same data, so that sizes match.

    Args:
        topology: the whole graph.
        counts: number of agents of each rank.
        rank: the rank whose part this is.
        mixes: the graph whose W the lists have, if not all agents that hear each other mix in a round; None:
            `topology`.

    Example:
        >>> import fastsaddle as fs
        >>> plan = fs.ranks.Plan(fs.topology.ring(6), counts=(3, 3), rank=0)
        >>> plan.own, plan.halo
        (range(0, 3), (3, 5))
        >>> plan.sends
        {1: (0, 2)}
    """

    topology: Topology
    counts: tuple[int, ...]
    rank: int
    mixes: Topology | None = None

    @property
    def agents(self) -> int:
        """Number of agents here."""
        return self.counts[self.rank]

    @property
    def first_agent(self) -> int:
        """Number of the first agent here."""
        return self.own.start

    @property
    def span(self) -> tuple[int, int]:
        """Number of the first agent here, and the number after that of the last."""
        return self.own.start, self.own.stop

    @cached_property
    def own(self) -> range:
        """Numbers of the agents here."""
        return agents_of(self.counts, self.rank)

    @cached_property
    def halo(self) -> tuple[int, ...]:
        """Agents elsewhere that those here hear, ascending and therefore grouped by rank."""
        heard = {j for i in self.own for j in self.topology.neighbors[i]}
        return tuple(sorted(heard.difference(self.own)))

    @cached_property
    def sends(self) -> dict[int, tuple[int, ...]]:
        """For each other rank, the agents here that it hears, ascending."""
        found: dict[int, set[int]] = {}
        for j, near in enumerate(self.topology.neighbors):
            if j not in self.own:
                found.setdefault(owner_of(self.counts, j), set()).update(
                    i for i in near if i in self.own
                )
        found = {peer: agents for peer, agents in found.items() if agents}
        return {peer: tuple(sorted(found[peer])) for peer in sorted(found)}

    @cached_property
    def receives(self) -> dict[int, tuple[int, ...]]:
        """For each other rank, its agents that are heard here, ascending. Together they are the halo."""
        found: dict[int, list[int]] = {}
        for j in self.halo:
            found.setdefault(owner_of(self.counts, j), []).append(j)
        return {peer: tuple(agents) for peer, agents in found.items()}

    @cached_property
    def edges_out(self) -> dict[int, tuple[Edge, ...]]:
        """For each other rank, the directed edges (agent here, agent there), for rows of edges; ascending."""
        return self._by_peer(self._crossing(), 1)

    @cached_property
    def edges_in(self) -> dict[int, tuple[Edge, ...]]:
        """For each other rank, the directed edges (agent there, agent here), ascending."""
        return self._by_peer(((j, i) for i, j in self._crossing()), 0)

    @cached_property
    def messages(self) -> int:
        """Rows that the agents here send in one exchange to all agents that hear them."""
        return sum(i in self.own for near in self.topology.neighbors for i in near)

    def hearers(self, rank: int) -> list[int]:
        """Agents elsewhere that hear those of a rank, ascending.

        Args:
            rank: number of the rank.
        """
        own = agents_of(self.counts, rank)
        near = enumerate(self.topology.neighbors)
        return [j for j, heard in near if j not in own and any(i in own for i in heard)]

    def lists(
        self,
        consensus_step: float = 1.0,
        width: int | None = None,
        columns: bool | None = None,
    ) -> Lists:
        """Neighbor lists of the agents here, with exactly the order, weights and width of the whole graph's lists.

        They name rows of the agents here, then of the halo. `incoming` names rows of what
        `fs.comm.Communicator.deliver` returns: blocks of one row for each agent here, block k sent to each agent's k-th
        neighbor, then what arrived, rank by rank.

        Args:
            consensus_step: gamma, in [0, 1], folded into the weights.
            width: width of the lists; None is that of the graph.
            columns: as in `fs.Topology.mixing_lists`.
        """
        neighbors, weights = (self.mixes or self.topology).mixing_lists(consensus_step, columns)
        if width is not None:
            neighbors, weights = padded(neighbors, weights, width)
        place = dict.fromkeys([-1], -1)
        place |= {agent: row for row, agent in enumerate((*self.own, *self.halo))}
        mine = slice(*self.span)
        rows = [[place[j] for j in near] for near in neighbors[mine].tolist()]
        local = torch.tensor(rows, dtype=torch.int32, device="cpu").reshape(self.agents, -1)
        return Lists(local, weights[mine].clone(), self._incoming(neighbors))

    def _incoming(self, neighbors: torch.Tensor) -> torch.Tensor:
        listed, width = neighbors[:, 1:].tolist(), neighbors.shape[1]
        place: dict[Edge, int] = {
            (i, j): k * self.agents + i - self.first_agent
            for i in self.own
            for k, j in enumerate(listed[i])
        }
        arrived = (edge for edges in self.edges_in.values() for edge in edges)
        first = (width - 1) * self.agents
        place |= {edge: first + row for row, edge in enumerate(arrived)}
        rows = [[place.get((j, i), -1) if j >= 0 else -1 for j in listed[i]] for i in self.own]
        return torch.tensor(rows, dtype=torch.int32, device="cpu").reshape(self.agents, width - 1)

    def slot_of(self, edge: Edge) -> int:
        """The place of an edge's receiver among the neighbors of its sender, from 0 on.

        Args:
            edge: (sender, receiver), numbers of agents.

        Raises:
            ValueError: somewhere an agent hears another that does not hear it; raised on every rank that asks.
        """
        return self._slots[edge]

    @cached_property
    def _slots(self) -> dict[Edge, int]:
        """Of all edges."""
        near = enumerate(self.topology.neighbors)
        found = {(i, j): k for i, heard in near for k, j in enumerate(heard)}
        for i, j in found:
            if (j, i) not in found:
                raise ValueError(
                    "cross-gradients and relayed sums go along edges in both directions, "
                    f"but in {self.topology.name} agent {i} hears {j}, and {j} does not hear {i}"
                )
        return found

    def _crossing(self) -> Iterator[Edge]:
        """Pairs (agent here, neighbor elsewhere)."""
        return ((i, j) for i in self.own for j in self.topology.neighbors[i] if j not in self.own)

    def _by_peer(self, edges: Iterator[Edge], end: int) -> dict[int, tuple[Edge, ...]]:
        """Directed edges by the rank of one of their ends, ascending."""
        found: dict[int, list[Edge]] = {}
        for edge in edges:
            found.setdefault(owner_of(self.counts, edge[end]), []).append(edge)
        return {peer: tuple(sorted(found[peer])) for peer in sorted(found)}
