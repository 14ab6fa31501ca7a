"""Push-sum over processes: numerators travel, weights are the schedule's, which all ranks know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from fastsaddle.comm.base import Exchange, LocalStep, take_mixed
from fastsaddle.comm.lists import Lists, Meeting, incoming, padded
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.comm.push_sum import PUSH_WEIGHT, PushSumGossip, WeighedMeeting, passed_on
from fastsaddle.comm.stacked import StackedGossip
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

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        return not self.peers.who

    def loaded(self) -> None:
        self._weights = {}

    def meetings(self, optimizer: Optimizer) -> tuple[Meeting, ...]:
        device, done = optimizer.rounds.device, int(optimizer.rounds)
        own = optimizer.scalar_state[PUSH_WEIGHT.name][0]
        if done not in self._weights:
            self._weights = {done: self.everybody.rows(own).cpu()}
        before = w = self._weights[done]
        if not StackedGossip.gossips(self, optimizer):
            self._weights = {done: before, done + 1: before}
            return (WeighedMeeting(0, self.alone(device), 0, before=own, after=own.clone()),)
        stays = self._changing is None
        static = (Meeting(0, self.lists(device), self.messages),) * self.rounds if stays else ()
        here, found = slice(*self.plan.span), []
        for meeting in static or RankGossip.meetings(self, optimizer):
            after = passed_on(self._whole(meeting), w)
            pair = (w[here].to(device), after[here].to(device))
            found.append(WeighedMeeting(**vars(meeting), before=pair[0], after=pair[1]))
            w = after
        self._weights = {done: before, done + 1: w}
        return tuple(found)

    def _whole(self, meeting: Meeting) -> Lists:
        """The lists of all agents, as wide as those of one process."""
        graph = cast(Topology, self.schedule) if meeting.plan is None else meeting.plan.topology
        lists = graph.mixing_lists(self.consensus_step, self._columns)
        neighbors, weights = padded(*lists, meeting.lists.width)
        return Lists(neighbors, weights, incoming(neighbors))

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
