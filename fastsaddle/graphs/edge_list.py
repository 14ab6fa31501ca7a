"""A graph from a text file with a line for each edge."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fastsaddle.graphs.mixing_matrix import ROUNDING
from fastsaddle.graphs.topology import Topology, from_matrix, from_networkx


@dataclass(frozen=True)
class _Edge:
    line: int
    ends: tuple[int, int]
    weight: float | None


def read(path: Path, agents: int) -> Topology:
    """The topology of a file whose lines are two agents, counted from 0, and an optional weight, with spaces between.

    Empty lines count for nothing, nor does what follows a `#`. Without weights W has Metropolis-Hastings weights; with
    them they are W_ij and W_ji of their edge, and each agent's own weight is what its edges leave of one. Its name is
    the file's, without the folder.

    Raises:
        ValueError: naming file and line, for a line of another form, an agent outside 0 to agents - 1, an edge from
            an agent to itself or there twice, a weight that is not positive, weights of an agent with a sum above
            one, weights at some edges only; naming the file, for a graph that is not connected.
        OSError: the file cannot be read.
    """
    import networkx as nx

    edges = _edges(path, agents)
    graph = nx.empty_graph(agents)
    graph.add_edges_from(edge.ends for edge in edges)
    reached = nx.node_connected_component(graph, 0)
    if lost := [agent for agent in range(agents) if agent not in reached]:
        raise ValueError(
            f"{path}: a topology must be connected, but of {agents} agents {len(lost)} are not reached "
            f"from agent 0, the first of them agent {lost[0]}"
        )
    if not edges or edges[0].weight is None:
        return replace(from_networkx(graph), name=path.name)
    return replace(from_matrix(_weighted(path, edges, agents)), name=path.name)


def _edges(path: Path, agents: int) -> list[_Edge]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be a text file with a line for each edge: {error}"
        ) from error
    seen: dict[tuple[int, ...], _Edge] = {}
    for number, line in enumerate(lines, 1):
        columns = line.partition("#")[0].split()
        if not columns:
            continue
        try:
            edge = _edge(number, columns, agents)
            first = next(iter(seen.values()), edge)
            if (first.weight is None) != (edge.weight is None):
                has = "a weight" if edge.weight is not None else "no weight"
                raise ValueError(
                    f"all edges must have a weight or none, this one has {has}, unlike line {first.line}"
                )
            key = tuple(sorted(edge.ends))
            if key in seen:
                raise ValueError(
                    f"an edge must be there once, this one is in line {seen[key].line}"
                )
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}, got {line.strip()!r}") from error
        seen[key] = edge
    return list(seen.values())


def _edge(number: int, columns: list[str], agents: int) -> _Edge:
    if len(columns) not in (2, 3):
        raise ValueError("an edge is two agents and an optional weight")
    if not all(re.fullmatch(r"-?[0-9]+", text) for text in columns[:2]):
        raise ValueError("agents must be whole numbers")
    i, j = map(int, columns[:2])
    if not (0 <= i < agents and 0 <= j < agents):
        raise ValueError(f"agents must be in 0 to {agents - 1}")
    if i == j:
        raise ValueError("an edge must join two different agents")
    if len(columns) == 2:
        return _Edge(number, (i, j), None)
    try:
        weight = float(columns[2])
    except ValueError as error:
        raise ValueError("a weight must be a number") from error
    if not (weight > 0 and math.isfinite(weight)):
        raise ValueError("a weight must be finite and > 0")
    return _Edge(number, (i, j), weight)


def _weighted(path: Path, edges: list[_Edge], agents: int) -> torch.Tensor:
    W = torch.zeros(agents, agents, dtype=torch.float64, device="cpu")
    sums = [0.0] * agents
    for edge in edges:
        i, j = edge.ends
        weight = edge.weight or 0.0
        W[i, j] = W[j, i] = weight
        for agent in edge.ends:
            sums[agent] += weight
            if sums[agent] > 1 + ROUNDING:
                raise ValueError(
                    f"{path}, line {edge.line}: the weights of an agent's edges must not exceed 1 together, "
                    f"got {sums[agent]:.9g} at agent {agent}"
                )
    return W + (1 - W.sum(1)).clamp(min=0).diag()
