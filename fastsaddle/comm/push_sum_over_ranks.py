"""Push-sum over processes: numerators travel, weights are the schedule's, which all ranks know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import torch

from fastsaddle.comm.base import Exchange, LocalStep, take_mixed
from fastsaddle.comm.lists import Meeting, padded
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.comm.push_sum import PUSH_WEIGHT, PushSumGossip, passed_on
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule, kind_of
from fastsaddle.ranks.placement import Placement

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


class PushSumRankGossip(PushSumGossip, RankGossip):
    """`PushSumGossip` along graphs whose agents are spread over processes.

    Every rank passes on the weights of all agents, as one process does; they travel once, where states were loaded.

    Args:
        schedule: the whole graph, or which one each gossip has.
        placement: who holds which agents.
        consensus_step, every, rounds: as in `Gossip`.
        stacked: whether parameters are `[agents here, ...]`; otherwise they are ordinary ones of one agent.

    Raises:
        ValueError: gamma outside [0, 1], a graph of another size.
    """

    def __init__(
        self,
        schedule: Schedule,
        placement: Placement,
        consensus_step: float = 1.0,
        every: int = 1,
        rounds: int = 1,
        stacked: bool = True,
    ) -> None:
        columns = kind_of(schedule) == "column-stochastic"
        often = (every, rounds)
        RankGossip.__init__(
            self, schedule, placement, consensus_step, *often, stacked=stacked, columns=columns
        )
        self._columns = columns
        # weights of all agents before this step and after it, by the number of steps
        self._weights: dict[int, torch.Tensor] = {}
        # those of graphs that never come again go with them
        self._lists_of_all: WeakKeyDictionary[Topology, tuple[torch.Tensor, torch.Tensor]]
        self._lists_of_all = WeakKeyDictionary()

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        return not self.peers.who

    def loaded(self) -> None:
        self._weights = {}

    def _weights_along(
        self, gossips: tuple[Meeting, ...], optimizer: Optimizer
    ) -> list[torch.Tensor]:
        done = int(optimizer.rounds)
        if done not in self._weights:
            own = optimizer.scalar_state[PUSH_WEIGHT.name][0]
            self._weights = {done: self.everybody.rows(own).cpu()}
        everybody = [self._weights[done]]
        for meeting in gossips:
            everybody.append(passed_on(*self._whole(meeting), everybody[-1]))
        self._weights = {done: everybody[0], done + 1: everybody[-1]}
        here, device = slice(*self.plan.span), optimizer.rounds.device
        return [w[here].to(device) for w in everybody]

    def _whole(self, meeting: Meeting) -> tuple[torch.Tensor, torch.Tensor]:
        """Neighbors and weights of all agents, as wide as those of one process."""
        graph = cast(Topology, self.schedule) if meeting.plan is None else meeting.plan.topology
        if graph not in self._lists_of_all:
            lists = graph.mixing_lists(self.consensus_step, self._columns)
            self._lists_of_all[graph] = padded(*lists, meeting.lists.width)
        return self._lists_of_all[graph]

    def _halves(
        self,
        x: torch.Tensor,
        shown: torch.Tensor | None,
        h: torch.Tensor,
        step: LocalStep,
        exchange: Exchange,
        dense: bool,
    ) -> None:
        *earlier, last = exchange.meetings
        for meeting in earlier:
            now = replace(exchange, meetings=(meeting,))
            self.publish(h, now)
            h = self.pulled(h, now)
        if last.lists.width > 1:
            h = self._halo_in(self._plan_in(replace(exchange, meetings=(last,))), h)
        take_mixed(x, shown, h, step, last.lists)
