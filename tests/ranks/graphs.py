"""Drawn graphs, and drawn ways to spread their agents over ranks."""

from itertools import pairwise

import torch
from hypothesis import strategies as st

from fastsaddle.graphs.topology import Topology, from_matrix


def of_edges(agents: int, edges: set[tuple[int, int]]) -> Topology:
    """A graph with Metropolis-Hastings weights."""
    linked = torch.zeros(agents, agents, dtype=torch.bool)
    for i, j in edges:
        linked[i, j] = linked[j, i] = True
    degrees = linked.sum(1)
    W = torch.where(linked, 1.0 / (torch.maximum(degrees[:, None], degrees[None]) + 1.0), 0.0)
    W = W.double()
    W.diagonal().copy_(1 - W.sum(1))
    return from_matrix(W)


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> Topology:
    """Connected graphs of 2 to `most` agents."""
    agents = draw(st.integers(2, most))
    order = draw(st.permutations(range(agents)))
    # a tree, then whatever else
    edges = {(order[k], order[draw(st.integers(0, k - 1))]) for k in range(1, agents)}
    pairs = st.tuples(st.integers(0, agents - 1), st.integers(0, agents - 1))
    more = draw(st.sets(pairs.filter(lambda pair: pair[0] != pair[1]), max_size=2 * agents))
    return of_edges(agents, {(min(e), max(e)) for e in edges | more})


@st.composite
def counts_of(draw: st.DrawFn, agents: int) -> tuple[int, ...]:
    """How many agents each rank has."""
    cuts = draw(st.sets(st.integers(1, agents - 1), max_size=agents - 1))
    return tuple(b - a for a, b in pairwise([0, *sorted(cuts), agents]))
