"""Meetings of all agents in one process: their mean, or a center that they and it pull at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.comm.base import Communicator, Exchange
from fastsaddle.comm.lists import Lists
from fastsaddle.comm.period import QSR
from fastsaddle.kernels.pull_push import pull_push
from fastsaddle.optimizer.hyperparameters import (
    Hyperparameter,
    Range,
    check_group,
    differ,
    is_many,
)
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

STEPS_DONE = State("steps_done", width="group", dtype=torch.int64)
NEXT = State("next_synchronization", width="group", dtype=torch.int64)
PULL = {"pull": Range(0, 1, default=1.0, closed=True)}
PUSH = {"push": Range(0, float("inf"), default=0.0)}
# of EASGD
WEAK_PULL = {"pull": Range(0, 1, default=0.1, closed=True)}


class StackedAverage(Communicator):
    """`Average` among the rows of one buffer."""

    averages = True
    is_elementwise = True
    may_refuse = False
    once_a_step = False
    shared_states: tuple[State, ...] = (STEPS_DONE, NEXT)
    hyperparameters: Mapping[str, Hyperparameter] = PULL | PUSH
    decides_on_host = "Average counts on the host when the agents are averaged"

    agents: int

    def __init__(self, agents: int, period: int | QSR) -> None:
        self.agents, self.period = agents, period
        self._own = {torch.device("cpu"): super().alone(torch.device("cpu"))}

    def alone(self, device: torch.device) -> Lists:
        # kept for good: a captured graph knows nothing but its address
        if device not in self._own:
            self._own[device] = super().alone(device)
        return self._own[device]

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        lr = groups[0]["lr"]
        if isinstance(self.period, QSR) and is_many(lr):
            raise ValueError(f"QSR needs one lr for all agents, got {tuple(lr.shape)} of them")
        for name, allowed in self.hyperparameters.items():
            values = [group[name] for group in groups]
            check_group({name: values[0]}, {name: allowed})
            if any(differ(values[0], v) for v in values[1:]):
                raise ValueError(f"{name} must be equal in all parameter groups, got {values}")

    def gossips(self, optimizer: Optimizer) -> bool:
        return False

    def mix(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        return x.clone()

    def _counted(self, optimizer: Optimizer) -> tuple[int, int]:
        """Steps done with the one that is under way, and those after which agents are to meet."""
        first = optimizer.param_groups[0]
        done, due = first[STEPS_DONE.name] + 1, first[NEXT.name]
        if done > due:
            # the first step of a period: the rate that it has says how long the period is; a fixed one begins here
            # only where the state came from another communicator
            period = self.period
            if isinstance(period, QSR):
                period = period.period(float(first["lr"]), done - 1)
            due = done - 1 + period
        return done, due

    def meets(self, optimizer: Optimizer) -> bool:
        done, due = self._counted(optimizer)
        return done >= due

    def finish(self, optimizer: Optimizer) -> int:
        nbytes = 0
        done, due = self._counted(optimizer)
        if done >= due:
            nbytes = self.synchronize(optimizer)
            due = done if isinstance(self.period, QSR) else done + self.period
        for group in optimizer.param_groups:
            group.update({STEPS_DONE.name: done, NEXT.name: due})
        return nbytes

    @torch.no_grad()
    def synchronize(self, optimizer: Optimizer) -> int:
        x = optimizer.model_rows
        if x.shape[1]:
            self._meet(optimizer, x, *self.mean(x))
        total, end = 2 * (self.all_agents - 1) * 4 * optimizer.dim, self.first_agent + self.agents
        # the part of the agents here; all parts add up
        return total * end // self.all_agents - total * self.first_agent // self.all_agents

    def _meet(
        self,
        optimizer: Optimizer,
        x: torch.Tensor,
        mean: torch.Tensor,
        squared_distance: torch.Tensor,
    ) -> None:
        """Move x `[agents, columns]`, given its mean `[columns]` and distances to it `[agents]` float64."""
        pull, push = optimizer.scalar(0, "pull"), optimizer.scalar(0, "push")
        pull_push(x, mean, squared_distance, pull, push)


class StackedElastic(StackedAverage):
    """`Elastic` among the rows of one buffer."""

    hyperparameters = WEAK_PULL
    decides_on_host = "Elastic counts on the host when the agents meet their center"
    shared_states = (STEPS_DONE, NEXT, State("center", rows="one", initial="mean"))

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        super().check_groups(groups)
        pull = groups[0]["pull"]
        if is_many(pull):
            raise ValueError(
                f"Elastic needs one pull for all agents, got {tuple(pull.shape)} of them"
            )

    def center(self, optimizer: Optimizer) -> torch.Tensor:
        """The row `[stride]` of the model to evaluate."""
        return optimizer.flat_state["center"][0]

    def _meet(
        self,
        optimizer: Optimizer,
        x: torch.Tensor,
        mean: torch.Tensor,
        squared_distance: torch.Tensor,
    ) -> None:
        pull = optimizer.scalar(0, "pull")
        center = self.center(optimizer)[: x.shape[1]]
        pull_push(x, center, squared_distance, pull / self.all_agents, torch.zeros_like(pull))
        center.copy_((1 - pull) * center + pull * mean)
