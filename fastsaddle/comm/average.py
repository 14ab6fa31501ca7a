"""Meetings of all agents: everybody alone for some steps, then towards the mean of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fastsaddle.comm.average_over_ranks import RankAverage, RankElastic
from fastsaddle.comm.base import NOT_STACKED
from fastsaddle.comm.period import QSR, check_steps
from fastsaddle.comm.stacked_average import NEXT, STEPS_DONE, StackedAverage, StackedElastic
from fastsaddle.ranks.placement import Placement, is_stack


@dataclass(frozen=True)
class Average:
    """Every `period` steps: x_i = mean + (1 - pull + push / ||x_i - mean||) (x_i - mean).

    By default it is the mean itself (McMahan et al. 2016, arXiv:1602.05629); pull and push are DPPF's (Dimlioglu and
    Choromanska 2025, arXiv:2507.20424). A meeting is an all-reduce: all n agents together send 2 (n - 1) models, as in
    the ring algorithm. Parameter groups remember `steps_done` and `next_synchronization`.

    Args:
        agents: number of agents; None is the leading dimension of the parameters.
        period: steps from one meeting to the next, >= 1, or an `fs.QSR`, which lengthens the period as lr falls.
        pull: alpha, in [0, 1]; an entry of the parameter groups, equal in all of them and read at each meeting.
        push: lambda, >= 0; likewise.

    Raises:
        ValueError: agents or period is below 1.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(stack.parameters(), communicator=fs.comm.Average(period=2))
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        0
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        96
    """

    agents: int | None = None
    period: int | QSR = 4
    pull: float | torch.Tensor = 1.0
    push: float | torch.Tensor = 0.0

    hyperparameters = StackedAverage.hyperparameters

    def __post_init__(self) -> None:
        check_meetings(self.agents, self.period)

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of the entries of the parameter groups."""
        return {"pull": self.pull, "push": self.push, **_first(self.period)}

    def connect(self, leading: int | None, placement: Placement | None = None) -> StackedAverage:
        """The communicator for an optimizer's parameters.

        Args:
            leading: first dimension of the parameters; None if they have no common one.
            placement: which process holds which agents; None if all are here.

        Raises:
            ValueError: the parameters are not stacked, or not for this number of agents.
        """
        if placement is not None:
            return RankAverage(placement, self.period, _is_stack(self.agents, leading, placement))
        return StackedAverage(_agents(self.agents, leading), self.period)


@dataclass(frozen=True)
class Elastic:
    """Every `period` steps agents and a center pull at each other.

        x_i    = (1 - pull / n) x_i + (pull / n) center
        center = (1 - pull) center + pull (1/n) sum_j x_j         with the models before they were pulled

    Zhang, Choromanska and LeCun 2015 (arXiv:1412.6651), equations 5 and 6, synchronous, with the strengths of the code
    of arXiv:2403.04206. The center starts at the agents' mean and is the model to evaluate. State: `center` `[1, ...]`.

    Args:
        agents: number of agents; None is the leading dimension of the parameters.
        period: steps from one meeting to the next, >= 1, or an `fs.QSR`, which lengthens the period as lr falls.
        pull: c, in [0, 1]; an entry of the parameter groups, equal in all of them.

    Raises:
        ValueError: agents or period is below 1.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(stack.parameters(), communicator=fs.comm.Elastic(period=2))
        >>> model = stack.consensus(optimizer.center)
    """

    agents: int | None = None
    period: int | QSR = 4
    pull: float | torch.Tensor = 0.1

    hyperparameters = StackedElastic.hyperparameters

    def __post_init__(self) -> None:
        check_meetings(self.agents, self.period)

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of the entries of the parameter groups."""
        return {"pull": self.pull, **_first(self.period)}

    def connect(self, leading: int | None, placement: Placement | None = None) -> StackedElastic:
        """The communicator for an optimizer's parameters.

        Args:
            leading: first dimension of the parameters; None if they have no common one.
            placement: which process holds which agents; None if all are here.

        Raises:
            ValueError: the parameters are not stacked, or not for this number of agents.
        """
        if placement is not None:
            return RankElastic(placement, self.period, _is_stack(self.agents, leading, placement))
        return StackedElastic(_agents(self.agents, leading), self.period)


def check_meetings(agents: int | None, period: int | QSR) -> None:
    """Raise ValueError for agents or a period below 1."""
    check_steps("agents", agents, optional=True)
    if not isinstance(period, QSR):
        check_steps("period", period)


def _first(period: int | QSR) -> dict[str, int]:
    """What groups remember before the first step."""
    return {STEPS_DONE.name: 0, NEXT.name: period.first if isinstance(period, QSR) else period}


def _agents(wanted: int | None, leading: int | None) -> int:
    if wanted is None and leading is None:
        raise ValueError(NOT_STACKED)
    return leading if wanted is None else wanted  # type: ignore[return-value]


def _is_stack(wanted: int | None, leading: int | None, placement: Placement) -> bool:
    if wanted not in (None, placement.all_agents):
        raise ValueError(f"{wanted} agents cannot be those of {placement}, {placement.all_agents}")
    return is_stack(leading, placement)
