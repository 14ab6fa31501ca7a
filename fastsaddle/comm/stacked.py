"""Gossip along a graph: all agents in one process, a step in one kernel over the stacked rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from fastsaddle.comm.base import (
    Communicator,
    Exchange,
    LocalStep,
    fused_step_,
    local_models,
    take_mixed,
)
from fastsaddle.comm.lists import ChangingLists, Lists, Meeting, MixingLists, differences
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.kernels.mix_dense import mix_dense
from fastsaddle.kernels.mix_neighbors import mix_neighbors
from fastsaddle.optimizer.state import ROUND, State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.ranks.plan import Plan

# from this many terms a row on, a dense product is faster than walking neighbor lists
DENSE_WIDTH = 64
STEPS_DONE = State("steps_done", width="group", dtype=torch.int64)


class StackedGossip(Communicator):
    """Gossip among the rows of one buffer, by neighbor lists, or by a dense product where degrees are large.

    Args:
        schedule: the graph, or which one each gossip has; None is a single agent that talks to nobody.
        consensus_step: gamma in x = h + gamma (W h - h), folded into the weights; 1 is W h itself.
        every, rounds, dense: as in `Gossip`.
        folded: whether gamma is folded into the weights.
        plan: of the agents here, where others are elsewhere; of a schedule, that of the graph with all its edges.
        columns: as in `Topology.mixing_lists`.

    Raises:
        ValueError: gamma outside [0, 1]; agents that may be down in one of a step's several gossips.
    """

    is_elementwise = True
    may_refuse = False

    def __init__(
        self,
        schedule: Schedule | None,
        consensus_step: float = 1.0,
        every: int = 1,
        rounds: int = 1,
        dense: bool | Literal["auto"] = "auto",
        folded: bool = True,
        plan: Plan | None = None,
        columns: bool | None = None,
    ) -> None:
        if rounds > 1 and isinstance(schedule, Faulty) and schedule.loses_agents:
            raise ValueError(
                f"an agent is down for a whole step, Gossip(rounds={rounds}) has several gossips in one: "
                f"take faults of links alone, got {schedule!r}"
            )
        self.schedule, self.topology = schedule, None if schedule is None else schedule.union
        gamma = consensus_step if folded else 1.0
        self._changing: ChangingLists | None = None
        self._changing_w: ChangingLists | None = None
        if schedule is None or isinstance(schedule, Topology):
            self._lists = MixingLists(schedule, gamma, plan, columns)
            self.messages = self._lists.messages
        else:
            plan_of = None if plan is None else self.plan_of
            self._changing = ChangingLists(schedule, gamma, plan_of, columns)
            # of these each agent's own row alone is asked for
            eye = torch.eye(schedule.agents, dtype=torch.float64, device="cpu")
            nobody = Topology(schedule.name, eye)
            alone = None if plan is None else replace(plan, topology=nobody)
            self._lists = MixingLists(nobody, gamma, alone)
            self.messages = (schedule.union if plan is None else plan).messages
        self.agents = self._lists.agents
        self._plan = plan
        self.stacked = schedule is not None
        self.consensus_step, self.every, self.rounds = consensus_step, every, rounds
        width = (self._changing or self._lists).width
        self.dense = width > DENSE_WIDTH if dense == "auto" else dense
        # one a device, kept for good: a captured graph knows nothing but its address
        self._matrices: dict[torch.device, torch.Tensor] = {}

    @property
    def once_a_step(self) -> bool:  # type: ignore[override]
        return self.every == 1 and self.rounds == 1

    @property
    def _draws(self) -> bool:
        """Whether graphs are asked for on the host, one after the other."""
        return self._changing is not None and self._changing.schedule.period is None

    @property
    def shared_states(self) -> tuple[State, ...]:  # type: ignore[override]
        counted = () if self.every == 1 and not self._draws else (STEPS_DONE,)
        return counted if self._changing is None or self._draws else (ROUND, *counted)

    @property
    def decides_on_host(self) -> str | None:  # type: ignore[override]
        if self.every > 1:
            return "Gossip(every=...) counts on the host when agents talk"
        if self._draws and self.schedule is not None:
            return f"{self.schedule.name} draws each round's graph on the host"
        return None

    def meetings(self, optimizer: Optimizer) -> tuple[Meeting, ...]:
        changing = self._changing
        if changing is None:
            return ()
        device = optimizer.rounds.device
        if self._draws:
            return self._meetings_from(self._number(optimizer), device)
        if self._plan is not None:
            # messages are made on the host
            steps = int(optimizer.rounds)
            return self._meetings_from(steps // self.every * self.rounds, device)
        done = optimizer.rounds.reshape(1)
        if self.once_a_step:
            return (changing.meeting(done, device),)
        numbers = done // self.every * self.rounds
        return tuple(changing.meeting(numbers + k, device) for k in range(self.rounds))

    def _meetings_from(self, first: int, device: torch.device) -> tuple[Meeting, ...]:
        """Those of a step by the number of its first gossip, on the host."""
        assert self._changing is not None
        return tuple(self._changing.meeting(first + k, device) for k in range(self.rounds))

    def plan_of(self, graph: Topology) -> Plan:
        """Who sends which rows to whom in a round with this graph."""
        assert self._plan is not None
        return replace(self._plan, topology=graph)

    def _number(self, optimizer: Optimizer) -> int:
        """The gossip that this step has, or leads to, by its number; where it is counted on the host."""
        done: int = optimizer.param_groups[0][STEPS_DONE.name]
        return done // self.every * self.rounds

    def down(self, optimizer: Optimizer) -> torch.Tensor | None:
        if not isinstance(self.schedule, Faulty) or not self.schedule.loses_agents:
            return None
        down = self.schedule.down(self._number(optimizer))[self.kept_here(optimizer.agents)]
        return down.to(optimizer.rounds.device) if down.any() else None

    def kept_here(self, agents: int) -> list[int]:
        """Numbers of the `agents` here, and behind them of those elsewhere whose states are kept here."""
        return list(range(self.first_agent, self.first_agent + agents))

    def gossips_begun(self, steps: int) -> int:
        return -(-steps // self.every) * self.rounds

    def meetings_like(
        self, others: tuple[Meeting, ...], device: torch.device
    ) -> tuple[Meeting, ...]:
        """The gossips of the same numbers along these graphs."""
        changing = self._changing
        if changing is None:
            return ()
        return tuple(changing.meeting(other.number, device) for other in others)

    def gossips(self, optimizer: Optimizer) -> bool:
        if self.every == 1:
            return True
        return (optimizer.param_groups[0][STEPS_DONE.name] + 1) % self.every == 0

    def finish(self, optimizer: Optimizer) -> int:
        if STEPS_DONE in self.shared_states:
            for group in optimizer.param_groups:
                group[STEPS_DONE.name] += 1
        return 0

    @property
    def most_neighbors(self) -> int:
        return (self._changing or self._lists).width - 1

    def lists(self, device: torch.device) -> Lists:
        if self._changing is not None:
            raise RuntimeError(
                f"the graphs of {self._changing.schedule.name} change: comm.lists(device) has a step's"
            )
        return self._lists.on(device)

    def _lists_in(self, exchange: Exchange, device: torch.device) -> Lists:
        """Those of one gossip."""
        return self.lists(device) if exchange.meeting is None else exchange.meeting.lists

    def alone(self, device: torch.device) -> Lists:
        return self._lists.alone(device)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        if self.dense or self.rounds > 1:
            mixed = self.mix(local_models(x, step), exchange)
            # everybody now reads its own row of what was mixed
            take_mixed(x, step.saved, mixed, step, self.alone(x.device))
            return
        fused_step_(x, step, self._lists_in(exchange, x.device))
        self.publish(x, exchange)

    def mix(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        for k in range(self.rounds):
            now = self._round(exchange, k)
            x = self._mix_once(x, now)
            if now is not exchange:
                exchange.nbytes += now.nbytes
        return x

    def differences(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        if self.rounds > 1:
            return super().differences(x, exchange)
        self.publish(x, exchange)
        return differences(self._lists_in(exchange, x.device), x, self.copies(x, exchange))

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        out = torch.empty_like(x)
        if self.dense:
            mix_dense(x, self._matrix(exchange, x.device), out)
        else:
            lists = self._lists_in(exchange, x.device)
            mix_neighbors(self.copies(x, exchange), out, lists.neighbors, lists.weights)
        return out

    def lists_of_w(self, device: torch.device, meeting: Meeting | None = None) -> Lists:
        if meeting is None or self._changing is None:
            return MixingLists(self.topology, plan=self._plan).on(device)
        if self._changing.consensus_step == 1:
            return meeting.lists
        if self._changing_w is None:
            plan_of = None if self._plan is None else self.plan_of
            self._changing_w = ChangingLists(self._changing.schedule, plan_of=plan_of)
        return self._changing_w.lists(meeting, device)

    def _round(self, exchange: Exchange, k: int) -> Exchange:
        """A step's gossip number `k`, for its draws: numbered by the gossips before it, with bytes of its own."""
        if self.once_a_step:
            return exchange
        number = exchange.number // self.every * self.rounds + k
        return replace(exchange, number=number, nbytes=0, meetings=exchange.meetings[k : k + 1])

    def _mix_once(self, x: torch.Tensor, now: Exchange) -> torch.Tensor:
        """One gossip of those that a step has."""
        self.publish(x, now)
        return self.pulled(x, now)

    def _matrix(self, exchange: Exchange, device: torch.device) -> torch.Tensor:
        """W as dense float32 `[agents, agents]`, with the lists' rounded weights."""
        if exchange.meeting is not None:
            return self._dense_of(exchange.meeting.lists)
        if device not in self._matrices:
            self._matrices[device] = self._dense_of(self.lists(device))
        return self._matrices[device]

    def _dense_of(self, lists: Lists) -> torch.Tensor:
        W = lists.weights.new_zeros(self.agents or 1, self.agents or 1)
        return W.scatter_add_(1, lists.neighbors.clamp(min=0).long(), lists.weights)
