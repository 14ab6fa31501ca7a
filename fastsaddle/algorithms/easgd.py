"""EASGD: agents are tied by springs to a center that moves with their mean."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.period import QSR
from fastsaddle.kernels.pull_push import pull_push
from fastsaddle.rules.averaging_optimizer import AveragingOptimizer, Local


class EASGD(AveragingOptimizer):
    """Elastic averaging: `period` local steps, then agents and center pull at each other.

        x_i    = (1 - pull / n) x_i + (pull / n) center
        center = (1 - pull) center + pull (1/n) sum_j x_j         with the models before they were pulled

    Zhang, Choromanska and LeCun 2015 (arXiv:1412.6651), equations 5 and 6, synchronous, with the strengths of the code
    of arXiv:2403.04206. The center starts at the agents' mean and is the model to evaluate. State: `center` `[1, ...]`,
    `momentum_buffer`; groups remember `steps_done` and `next_synchronization`.

    Args:
        pull: c in [0, 1]; equal in all parameter groups.

    Other arguments and errors: as in `LocalSGD`.
    """

    shared = ("pull",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        agents: int,
        pull: float | torch.Tensor = 0.1,
        period: int | QSR = 4,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        local: Local | None = None,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "pull": pull,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            agents=agents,
            period=period,
            local=local,
            nonfinite=nonfinite,
            backend=backend,
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        return (*super().state_names, "center")

    @property
    def center(self) -> torch.Tensor:
        return self.flat_state["center"][0]

    def _allocate(self, device: torch.device) -> dict[str, torch.Tensor]:
        # one row stands for all agents
        return {**super()._allocate(device), "center": self.rows.layout.allocate(1, device)}

    def _bind(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        known = [p for p in parameters if "center" in self.state[p]]
        super()._bind()
        columns = self._first_columns(len(self.param_groups))
        mean, _ = self._mean(self.rows.x[:, columns])
        start = torch.zeros_like(self.flat_state["center"])
        start[0, columns] = mean
        parts = self.rows.parts(start)
        for p, part in zip(parameters, parts, strict=False):
            if not any(p is other for other in known):
                self.state[p]["center"].copy_(part)

    def _meet(self, x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
        pull, columns = self._scalar(0, "pull"), self._first_columns(len(self.param_groups))
        center = self.center[columns]
        pull_push(x, center, squared_distance, pull / self.agents, torch.zeros_like(pull))
        center.copy_((1 - pull) * center + pull * mean)
