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
    """One rank's part of a graph. Both ends of a connection derive it from the same data, so that sizes match.

    Attributes:
        topology: the whole graph.
        counts: agents of each rank.
        rank: whose part this is.
        mixes: the graph whose W lists have, where not all who hear each other mix in a round; None: `topology`.
    """

    topology: Topology
    counts: tuple[int, ...]
    rank: int
    mixes: Topology | None = None

    @property
    def agents(self) -> int:
        """How many agents are here."""
        return self.counts[self.rank]

    @property
    def first_agent(self) -> int:
        """Number of the first one."""
        return self.own.start

    @property
    def span(self) -> tuple[int, int]:
        """Number of the first one, and that behind the last."""
        return self.own.start, self.own.stop

    @cached_property
    def own(self) -> range:
        """Numbers of the agents here."""
        return agents_of(self.counts, self.rank)

    @cached_property
    def halo(self) -> tuple[int, ...]:
        """Agents elsewhere that those here hear, ascending, hence grouped by rank."""
        heard = {j for i in self.own for j in self.topology.neighbors[i]}
        return tuple(sorted(heard.difference(self.own)))

    @cached_property
    def sends(self) -> dict[int, tuple[int, ...]]:
        """Peer -> agents here that it hears, ascending."""
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
        """Peer -> its agents that are heard here, ascending: the halo, rank by rank."""
        found: dict[int, list[int]] = {}
        for j in self.halo:
            found.setdefault(owner_of(self.counts, j), []).append(j)
        return {peer: tuple(agents) for peer, agents in found.items()}

    @cached_property
    def edges_out(self) -> dict[int, tuple[Edge, ...]]:
        """Peer -> directed edges (from here, to there), ascending: a row each where rows belong to edges."""
        return self._by_peer(self._crossing(), 1)

    @cached_property
    def edges_in(self) -> dict[int, tuple[Edge, ...]]:
        """Peer -> directed edges (from there, to here), ascending."""
        return self._by_peer(((j, i) for i, j in self._crossing()), 0)

    @cached_property
    def messages(self) -> int:
        """Rows that the agents here send in one exchange, to all who hear them together."""
        return sum(i in self.own for near in self.topology.neighbors for i in near)

    def hearers(self, rank: int) -> list[int]:
        """Agents elsewhere that hear those of a rank, ascending."""
        own = agents_of(self.counts, rank)
        near = enumerate(self.topology.neighbors)
        return [j for j, heard in near if j not in own and any(i in own for i in heard)]

    def lists(
        self,
        consensus_step: float = 1.0,
        width: int | None = None,
        columns: bool | None = None,
    ) -> Lists:
        """Neighbor lists of the agents here, in the order of the graph that mixes, with its very weights and width.

        They name rows of agents here, then of the halo. `incoming` names rows of what `deliver` gives: blocks of one
        row an agent here, block k sent to each one's k-th neighbor, then what arrived, peer by peer. `width` is that of
        the lists, by default the graph's; `columns` as in `Topology.mixing_lists`.
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
        """Which of its sender's neighbors the end of an edge is, from 0 on.

        Raises:
            ValueError: on every rank that asks: somewhere an agent hears another that does not hear it.
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
