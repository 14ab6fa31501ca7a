"""Neighbor lists on a device: who hears whom, with which weight, in each round of a schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule, graph_of, most_neighbors
from fastsaddle.optimizer.hyperparameters import is_number

if TYPE_CHECKING:
    from fastsaddle.ranks.plan import Plan


@dataclass(frozen=True)
class Lists:
    """The neighbor lists of one round, as kernels take them.

    Args:
        neighbors: int32 `[agents, width]`: rows of the halo; each agent's own row first, then its neighbors' in
            ascending order, padded with -1.
        weights: float32 `[agents, width]`: W with the consensus step folded in; zero in the padding.
        incoming: int32 `[agents, width - 1]`: rows of what `fs.comm.Communicator.deliver` returns, in the order of the
            neighbors that sent them, padded with -1.
    """

    neighbors: torch.Tensor
    weights: torch.Tensor
    incoming: torch.Tensor

    @property
    def width(self) -> int:
        """Length of the lists, the largest number of neighbors plus one."""
        return self.neighbors.shape[1]

    def whose(self, slot: int) -> torch.Tensor:
        """The agent at one place of each list, int64 `[agents]`; the agent itself where the list has ended.

        Args:
            slot: the place, 0 for the agent itself.
        """
        neighbors = self.neighbors.long()
        return torch.where(neighbors[:, slot] < 0, neighbors[:, 0], neighbors[:, slot])


class MixingLists:
    """Neighbor lists with weights, as kernels take them; each device's copy is made once and kept.

    Args:
        topology: the graph; None is a single agent that talks to nobody.
        consensus_step: gamma, folded into the weights: (1 - gamma) I + gamma W.
        plan: of the agents here, where others are elsewhere.
        columns: as in `Topology.mixing_lists`.

    Raises:
        ValueError: gamma outside [0, 1].
    """

    def __init__(
        self,
        topology: Topology | None,
        consensus_step: float = 1.0,
        plan: Plan | None = None,
        columns: bool | None = None,
    ) -> None:
        check_consensus_step(consensus_step)
        whole = (
            self._lists(topology, consensus_step, columns)
            if plan is None
            else plan.lists(consensus_step, columns=columns)
        )
        self.agents, self.width = whole.neighbors.shape
        everybody = 0 if topology is None else topology.messages
        self.messages = everybody if plan is None else plan.messages
        own = torch.arange(self.agents, dtype=torch.int32, device="cpu")[:, None]
        one = torch.ones(self.agents, 1, dtype=torch.float32, device="cpu")
        alone = Lists(own, one, incoming(own))
        # kept for good: a captured graph knows nothing but addresses
        self._on = {torch.device("cpu"): (whole, alone)}

    @staticmethod
    def _lists(topology: Topology | None, consensus_step: float, columns: bool | None) -> Lists:
        """Those of a whole graph."""
        if topology is None:
            neighbors = torch.zeros(1, 1, dtype=torch.int32, device="cpu")
            weights = torch.ones(1, 1, dtype=torch.float32, device="cpu")
        else:
            neighbors, weights = topology.mixing_lists(consensus_step, columns)
        return Lists(neighbors, weights, incoming(neighbors))

    def on(self, device: torch.device) -> Lists:
        """The lists on a device."""
        return self._both(device)[0]

    def alone(self, device: torch.device) -> Lists:
        """Lists by which every agent reads its own row alone."""
        return self._both(device)[1]

    def _both(self, device: torch.device) -> tuple[Lists, Lists]:
        if device not in self._on:
            first = next(iter(self._on.values()))
            whole, alone = (Lists(*(t.to(device) for t in vars(x).values())) for x in first)
            self._on[device] = whole, alone
        return self._on[device]


@dataclass(frozen=True)
class Meeting:
    """Who talks to whom in one gossip, where that changes from one to the next.

    Attributes:
        number: of the gossip, counted from 0: int64 `[1]` on the device, or on the host where graphs are drawn there.
        lists: its lists.
        messages: rows sent in it, all neighbors together; int64 0-d on the device where rounds of a period differ.
        plan: who sends which rows to whom, where agents are in several processes.
    """

    number: torch.Tensor | int
    lists: Lists
    messages: torch.Tensor | int
    plan: Plan | None = None


class ChangingLists:
    """The neighbor lists of a schedule's rounds.

    Those of a period lie in one table on the device, `[period, agents, width]`, and a round is found there by a number
    on the device, so that a step can be captured. Those that never come again are made on the host, in each step, and
    so are all over processes, whose steps are never captured.

    Args:
        schedule: which graph each round has.
        consensus_step: gamma, folded into the weights: (1 - gamma) I + gamma W.
        plan_of: a graph's plan, where agents are in several processes.
        columns: as in `Topology.mixing_lists`.

    Attributes:
        width: of all lists, one more than the most neighbors in any round.
        messages: of each round of a period.

    Raises:
        ValueError: gamma outside [0, 1].
    """

    def __init__(
        self,
        schedule: Schedule,
        consensus_step: float = 1.0,
        plan_of: Callable[[Topology], Plan] | None = None,
        columns: bool | None = None,
    ) -> None:
        check_consensus_step(consensus_step)
        self.schedule, self.consensus_step = schedule, consensus_step
        self.columns, self._plan_of = columns, plan_of
        self.width = 1 + most_neighbors(schedule)
        self.messages: tuple[int, ...] = ()
        # one a device, kept for good: a captured graph knows nothing but addresses
        self._tables: dict[torch.device, _Table] = {}
        # made on the host: of a period, or of one round, for the parts of a step that ask for it
        self._made: dict[tuple[int, torch.device], Meeting] = {}
        if schedule.period is not None and plan_of is None:
            graphs = [self._graph(t) for t in range(schedule.period)]
            self.messages = tuple(graph.messages for graph in graphs)
            table = _Table.of([self._padded(graph) for graph in graphs])
            self._tables[table.neighbors.device] = table

    def meeting(self, number: torch.Tensor | int, device: torch.device) -> Meeting:
        """A gossip by its number: int64 `[1]` on the device for a schedule with a period, else on the host."""
        if isinstance(number, int):
            return self._on_host(number, device)
        table = self._table(device)
        place = number.remainder(len(table.neighbors))
        alike = len(set(self.messages)) == 1
        sent = self.messages[0] if alike else table.messages.index_select(0, place)[0]
        return Meeting(number, table.lists(place), sent)

    def lists(self, meeting: Meeting, device: torch.device) -> Lists:
        """Those of a meeting, with this gamma, whatever gamma the meeting's own have."""
        if isinstance(meeting.number, int):
            return self._on_host(meeting.number, device).lists
        table = self._table(device)
        return table.lists(meeting.number.remainder(len(table.neighbors)))

    def _table(self, device: torch.device) -> _Table:
        if device not in self._tables:
            first = next(iter(self._tables.values()))
            self._tables[device] = _Table(*(t.to(device) for t in vars(first).values()))
        return self._tables[device]

    def _on_host(self, number: int, device: torch.device) -> Meeting:
        """A gossip, made for it alone."""
        period = self.schedule.period
        key = (number if period is None else number % period), device
        if key not in self._made:
            if period is None:
                self._made.clear()
            graph = self._graph(number)
            plan = None if self._plan_of is None else self._plan_of(graph)
            lists = Lists(*(t.to(device) for t in vars(self._padded(graph, plan)).values()))
            sent = graph.messages if plan is None else plan.messages
            self._made[key] = Meeting(number, lists, sent, plan)
        return replace(self._made[key], number=number)

    def _graph(self, number: int) -> Topology:
        """That of a round, which must not have more neighbors than the schedule says."""
        graph = graph_of(self.schedule, number)
        most = max(map(len, graph.neighbors))
        if most >= self.width:
            raise ValueError(
                f"an agent of {self.schedule.name} has {self.width - 1} neighbors in a round at most, as it says, "
                f"got {most}"
            )
        return graph

    def _padded(self, graph: Topology, plan: Plan | None = None) -> Lists:
        """A graph's lists, as wide as all others, on the CPU."""
        if plan is not None:
            return plan.lists(self.consensus_step, self.width, self.columns)
        lists = graph.mixing_lists(self.consensus_step, self.columns)
        neighbors, weights = padded(*lists, self.width)
        return Lists(neighbors, weights, incoming(neighbors))


@dataclass(frozen=True)
class _Table:
    """Lists of all rounds of a period, one behind the other.

    Attributes:
        neighbors, weights, incoming: those of `Lists`, `[period, agents, ...]`.
        messages: int64 `[period]`.
    """

    neighbors: torch.Tensor
    weights: torch.Tensor
    incoming: torch.Tensor
    messages: torch.Tensor

    @classmethod
    def of(cls, rounds: list[Lists]) -> _Table:
        neighbors, weights, arriving = (
            torch.stack(part) for part in zip(*(vars(r).values() for r in rounds), strict=True)
        )
        messages = [int((r.neighbors[:, 1:] >= 0).sum()) for r in rounds]
        return cls(neighbors, weights, arriving, torch.tensor(messages, device="cpu"))

    def lists(self, place: torch.Tensor) -> Lists:
        """Those of one round, int64 `[1]`."""
        parts = (self.neighbors, self.weights, self.incoming)
        return Lists(*(part.index_select(0, place)[0] for part in parts))


def differences(lists: Lists, x: torch.Tensor, halo: torch.Tensor) -> torch.Tensor:
    """sum_j M_ij (x_j - x_i) `[agents, columns]`, summed in the lists' order, M being W with gamma folded in.

    Args:
        lists: they name rows of the halo.
        x: `[agents, columns]`.
        halo: x, then the rows heard of agents elsewhere.
    """
    moved = torch.zeros_like(x)
    for slot in range(1, lists.width):
        # the weight is zero where a list has ended
        others = halo.index_select(0, lists.whose(slot))
        moved.add_(lists.weights[:, slot, None] * (others - x))
    return moved


def padded(
    neighbors: torch.Tensor, weights: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbor lists `[agents, width]` that end where they ended before."""
    spare = (0, width - neighbors.shape[1])
    if not spare[1]:
        return neighbors, weights
    return F.pad(neighbors, spare, value=-1), F.pad(weights, spare)


def incoming(neighbors: torch.Tensor) -> torch.Tensor:
    """Where what neighbors sent lies: rows of blocks of one row an agent, block k sent to each one's k-th neighbor."""
    agents, width = neighbors.shape
    listed = neighbors[:, 1:].tolist()
    place = {(i, j): k * agents + i for i, near in enumerate(listed) for k, j in enumerate(near)}
    rows = [
        [place.get((j, i), -1) if j >= 0 else -1 for j in near] for i, near in enumerate(listed)
    ]
    return torch.tensor(rows, dtype=torch.int32, device="cpu").reshape(agents, width - 1)


def check_consensus_step(consensus_step: float) -> None:
    """Raise ValueError unless gamma is in [0, 1]."""
    if not is_number(consensus_step) or not 0 <= consensus_step <= 1:
        raise ValueError(f"consensus_step must be in [0, 1], got {consensus_step!r}")
