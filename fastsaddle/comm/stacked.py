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
from fastsaddle.comm.lists import Lists, MixingLists, differences
from fastsaddle.graphs.topology import Topology
from fastsaddle.kernels.mix_dense import mix_dense
from fastsaddle.kernels.mix_neighbors import mix_neighbors
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.ranks.plan import Plan

# from this many terms a row on, a dense product is faster than walking neighbor lists
DENSE_WIDTH = 64
STEPS_DONE = State("steps_done", width="group", dtype=torch.int64)


class StackedGossip(Communicator):
    """Gossip among the rows of one buffer, by neighbor lists, or by a dense product where degrees are large.

    Args:
        topology: the graph; None is a single agent that talks to nobody.
        consensus_step: gamma in x = h + gamma (W h - h), folded into the weights; 1 is W h itself.
        every, rounds, dense: as in `Gossip`.
        folded: whether gamma is folded into the weights.
        plan: of the agents here, where others are elsewhere.

    Raises:
        ValueError: gamma outside [0, 1].
    """

    is_elementwise = True
    may_refuse = False

    def __init__(
        self,
        topology: Topology | None,
        consensus_step: float = 1.0,
        every: int = 1,
        rounds: int = 1,
        dense: bool | Literal["auto"] = "auto",
        folded: bool = True,
        plan: Plan | None = None,
    ) -> None:
        self._lists = MixingLists(topology, consensus_step if folded else 1.0, plan)
        self.agents, self.messages = self._lists.agents, self._lists.messages
        self._plan = plan
        self.topology, self.stacked = topology, topology is not None
        self.consensus_step, self.every, self.rounds = consensus_step, every, rounds
        self.dense = self._lists.width > DENSE_WIDTH if dense == "auto" else dense
        # one a device, kept for good: a captured graph knows nothing but its address
        self._matrices: dict[torch.device, torch.Tensor] = {}

    @property
    def once_a_step(self) -> bool:  # type: ignore[override]
        return self.every == 1 and self.rounds == 1

    @property
    def shared_states(self) -> tuple[State, ...]:  # type: ignore[override]
        return () if self.every == 1 else (STEPS_DONE,)

    @property
    def decides_on_host(self) -> str | None:  # type: ignore[override]
        return None if self.every == 1 else "Gossip(every=...) counts on the host when agents talk"

    def gossips(self, optimizer: Optimizer) -> bool:
        if self.every == 1:
            return True
        return (optimizer.param_groups[0][STEPS_DONE.name] + 1) % self.every == 0

    def finish(self, optimizer: Optimizer) -> int:
        if self.every > 1:
            for group in optimizer.param_groups:
                group[STEPS_DONE.name] += 1
        return 0

    def lists(self, device: torch.device) -> Lists:
        return self._lists.on(device)

    def alone(self, device: torch.device) -> Lists:
        return self._lists.alone(device)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        if self.dense or self.rounds > 1:
            mixed = self.mix(local_models(x, step), exchange)
            # everybody now reads its own row of what was mixed
            take_mixed(x, step.saved, mixed, step, self.alone(x.device))
            return
        fused_step_(x, step, self.lists(x.device))
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
        return differences(self.lists(x.device), x, self.copies(x, exchange))

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        out = torch.empty_like(x)
        if self.dense:
            mix_dense(x, self._matrix(x.device), out)
        else:
            lists = self.lists(x.device)
            mix_neighbors(self.copies(x, exchange), out, lists.neighbors, lists.weights)
        return out

    def lists_of_w(self, device: torch.device) -> Lists:
        return MixingLists(self.topology, plan=self._plan).on(device)

    def _round(self, exchange: Exchange, k: int) -> Exchange:
        """A step's gossip number `k`, for its draws: numbered by the gossips before it, with bytes of its own."""
        if self.once_a_step:
            return exchange
        return replace(exchange, number=exchange.number // self.every * self.rounds + k, nbytes=0)

    def _mix_once(self, x: torch.Tensor, now: Exchange) -> torch.Tensor:
        """One gossip of those that a step has."""
        self.publish(x, now)
        return self.pulled(x, now)

    def _matrix(self, device: torch.device) -> torch.Tensor:
        """W as dense float32 `[agents, agents]`, with the lists' rounded weights."""
        if device not in self._matrices:
            lists = self.lists(device)
            W = lists.weights.new_zeros(self.agents or 1, self.agents or 1)
            self._matrices[device] = W.scatter_add_(
                1, lists.neighbors.clamp(min=0).long(), lists.weights
            )
        return self._matrices[device]
