"""Meetings of all agents: everybody alone for some steps, then towards the mean of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fastsaddle.comm.base import NOT_STACKED, Communicator, Exchange
from fastsaddle.comm.lists import Lists
from fastsaddle.comm.period import QSR, check_steps
from fastsaddle.kernels.pull_push import pull_push
from fastsaddle.optimizer.hyperparameters import Hyperparameter, Range, check_group, differ, is_many
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

STEPS_DONE = State("steps_done", width="group", dtype=torch.int64)
NEXT = State("next_synchronization", width="group", dtype=torch.int64)


@dataclass(frozen=True)
class Average:
    """Every `period` steps: x_i = mean + (1 - pull + push / ||x_i - mean||) (x_i - mean).

    The defaults make it the mean itself (McMahan et al. 2016, arXiv:1602.05629); pull and push are DPPF's (Dimlioglu
    and Choromanska 2025, arXiv:2507.20424). A meeting is an all-reduce: 2 (n - 1) models are sent by all n agents
    together, as in its ring algorithm. Groups remember `steps_done` and `next_synchronization`.

    Args:
        agents: how many; None takes the leading dimension of the parameters.
        period: steps from one meeting to the next, >= 1, or `fs.QSR(...)`, which lengthens them as lr falls.
        pull: alpha, in [0, 1].
        push: lambda, >= 0. Both become entries of the parameter groups, equal in all of them and read at each meeting.

    Raises:
        ValueError: agents or a period below 1.
    """

    agents: int | None = None
    period: int | QSR = 4
    pull: float | torch.Tensor = 1.0
    push: float | torch.Tensor = 0.0

    hyperparameters: ClassVar[Mapping[str, Hyperparameter]] = {
        "pull": Range(0, 1, default=1.0, closed=True),
        "push": Range(0, float("inf"), default=0.0),
    }

    def __post_init__(self) -> None:
        check_meetings(self.agents, self.period)

    @property
    def defaults(self) -> dict[str, Any]:
        return {"pull": self.pull, "push": self.push, **_first(self.period)}

    def connect(self, leading: int | None) -> StackedAverage:
        """The communicator for parameters with `leading` rows, None where these have no common number."""
        return StackedAverage(_agents(self.agents, leading), self.period)


@dataclass(frozen=True)
class Elastic:
    """Every `period` steps agents and a center pull at each other.

        x_i    = (1 - pull / n) x_i + (pull / n) center
        center = (1 - pull) center + pull (1/n) sum_j x_j         with the models before they were pulled

    Zhang, Choromanska and LeCun 2015 (arXiv:1412.6651), equations 5 and 6, synchronous, with the strengths of the code
    of arXiv:2403.04206. The center starts at the agents' mean and is the model to evaluate. State: `center` `[1, ...]`.

    Args:
        agents, period: as in `Average`.
        pull: c, in [0, 1]; an entry of the parameter groups, equal in all of them.

    Raises:
        ValueError: agents or a period below 1.
    """

    agents: int | None = None
    period: int | QSR = 4
    pull: float | torch.Tensor = 0.1

    hyperparameters: ClassVar[Mapping[str, Hyperparameter]] = {
        "pull": Range(0, 1, default=0.1, closed=True)
    }

    def __post_init__(self) -> None:
        check_meetings(self.agents, self.period)

    @property
    def defaults(self) -> dict[str, Any]:
        return {"pull": self.pull, **_first(self.period)}

    def connect(self, leading: int | None) -> StackedElastic:
        """The communicator for parameters with `leading` rows, None where these have no common number."""
        return StackedElastic(_agents(self.agents, leading), self.period)


class StackedAverage(Communicator):
    """`Average` among the rows of one buffer."""

    averages = True
    is_elementwise = True
    may_refuse = False
    once_a_step = False
    shared_states = (STEPS_DONE, NEXT)
    hyperparameters = Average.hyperparameters
    decides_on_host = "Average counts on the host when the agents are averaged"

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

    def finish(self, optimizer: Optimizer) -> int:
        first, nbytes = optimizer.param_groups[0], 0
        done, due = first[STEPS_DONE.name] + 1, first[NEXT.name]
        if done > due:
            # the first step of a period: the rate that it has says how long the period is; a fixed one begins here
            # only where the state came from another communicator
            period = self.period
            if isinstance(period, QSR):
                period = period.period(float(first["lr"]), done - 1)
            due = done - 1 + period
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
        return 2 * (self.all_agents - 1) * 4 * optimizer.dim

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

    hyperparameters = Elastic.hyperparameters
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
