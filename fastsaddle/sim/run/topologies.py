"""The graphs that a run can choose: built-in ones by their text, the user's own from a file or a function."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastsaddle.graphs import edge_list, topology
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import (
    Schedule,
    is_schedule,
    kind_of,
    mean_messages,
    most_neighbors,
)
from fastsaddle.graphs.spectrum import described
from fastsaddle.sim import choices
from fastsaddle.sim.data.arrays import read_npy

# agents up to whom facts are asked for: eigenvalues of more take long
MOST_SEEN = 1_024


def find(text: str, agents: int, seed: int) -> Schedule:
    """The graph that `--topology` names: built in, a file of edges (.txt), a mixing matrix (.npy), or file.py:name.

    Raises ValueError for what is no connected graph of so many agents, FileNotFoundError for a file that is not there.
    """
    if choices.is_data_file(text):
        path = Path(text)
        if not path.is_file():
            raise FileNotFoundError(f"--topology {path.resolve()} is not there")
        return _checked(text, _read(path, agents), agents)
    own = choices.own_choice(text)
    if own is not None:
        return _checked(text, _called(own, agents, seed), agents)
    if text.partition(":")[0] not in topology.names():
        raise ValueError(
            f"--topology must be one of {', '.join(topology.names())}, or your own as edges.txt, matrix.npy, "
            f"file.py:name or package.module:name, got {text!r}{choices.meant(text, topology.names())}"
        )
    return topology.parse(text, agents)


def facts(schedule: Schedule) -> str:
    """What graphs they are, in a line: W, neighbors and messages of a round, all links, and how fast they mix."""
    union = schedule.union
    links = f"{union.edges:,} links"
    sent = f"{union.messages:,} messages a round"
    if not isinstance(schedule, Topology):
        links += f" in all, at most {of_neighbors(most_neighbors(schedule))} in a round"
        sent = f"{mean_messages(schedule):,.4g} messages a round"
        again = "drawn anew each round" if schedule.period is None else f"{schedule.period} rounds"
        links = f"{again}, {links}"
    return f"{kind_of(schedule)}, {links}, {sent}, {described(schedule)}"


def degrees(schedule: Schedule) -> str:
    """How many others an agent hears, and is heard by where that differs, in a line."""
    links = schedule.union.W.gt(0).fill_diagonal_(False)
    heard, hearing = links.sum(1), links.sum(0)
    said = f"an agent hears {_numbers(heard)}"
    if not torch.equal(heard, hearing):
        said += f", and is heard by {_numbers(hearing)}"
    return said if isinstance(schedule, Topology) else f"over all rounds {said}"


def _numbers(counts: torch.Tensor) -> str:
    least, most = int(counts.min()), int(counts.max())
    if least == most:
        return f"{most:,} other{'s' if most != 1 else ''}"
    return f"{least:,} to {most:,} others, {counts.double().mean():.3g} on average"


def of_neighbors(count: int) -> str:
    """So many neighbors, in words."""
    return f"{count:,} neighbor{'s' if count != 1 else ''}"


def is_own(text: str) -> bool:
    """Whether the graph is a file or a function of the user's."""
    return choices.is_data_file(text) or choices.OWN.fullmatch(text) is not None


def _read(path: Path, agents: int) -> Schedule:
    if path.suffix == ".txt":
        return edge_list.read(path, agents)
    try:
        matrix = read_npy(path)
    except ValueError as error:
        raise ValueError(f"{path} must hold a matrix as numpy.save writes it: {error}") from error
    return _from_matrix(str(path), matrix, path.name)


def _called(own: choices.Choice, agents: int, seed: int) -> Schedule:
    """What the user's function says, which may be a topology, a schedule, a graph of networkx or a mixing matrix."""
    import networkx as nx

    found = own(agents=agents, seed=seed)
    if is_schedule(found):
        return found
    name = Path(own.text).name
    if isinstance(found, nx.Graph):
        try:
            return replace(topology.from_networkx(found), name=name)
        except ValueError as error:
            raise ValueError(f"--topology {own.text}: {error}") from error
    return _from_matrix(f"--topology {own.text}", found, name)


def _from_matrix(source: str, content: Any, name: str) -> Schedule:
    rule = (
        f"{source} must give a Topology, a Schedule, a networkx graph or a matrix of real numbers"
    )
    matrix: Any
    if isinstance(content, torch.Tensor):
        matrix, is_real = content, not content.is_complex()
    else:
        try:
            matrix = np.asarray(content)
        except ValueError as error:
            raise ValueError(f"{rule}: {error}") from error
        is_real = matrix.dtype.kind in "biuf"
    if not is_real:
        raise ValueError(f"{rule}, got {type(content).__name__} of {matrix.dtype}")
    try:
        return replace(topology.from_matrix(matrix, directed=True), name=name)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _checked(text: str, graph: Schedule, agents: int) -> Schedule:
    if graph.agents != agents:
        raise ValueError(f"--topology {text} has {graph.agents} agents, but --agents is {agents}")
    return graph
