"""DPPF: agents are pulled towards their mean and pushed away from it, so that they settle in a wide valley."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.period import QSR
from fastsaddle.kernels.pull_push import pull_push
from fastsaddle.rules.averaging_optimizer import AveragingOptimizer, Local


class DPPF(AveragingOptimizer):
    """Distributed pull-push force: `period` local steps, then pull and push along the line to the mean.

        D_i = x_i - mean
        x_i = mean + (1 - pull + push / ||D_i||) D_i              one norm over the whole model of each agent

    Dimlioglu and Choromanska 2025 (arXiv:2507.20424). The update is a reconstruction: no public code was found and the
    paper's box was not readable; it agrees with the published law that the distance to the mean settles at push / pull,
    the width of the valley. push = 0 and pull = 1 is LocalSGD, bit for bit. The model to evaluate is the mean. The push
    costs no communication. State: `momentum_buffer`; groups remember `steps_done` and `next_synchronization`.

    Args:
        pull: alpha in [0, 1].
        push: lambda >= 0. Both are read from the parameter groups at every synchronization, for schedules, and must be
            equal in all of them.

    Other arguments and errors: as in `LocalSGD`.
    """

    shared = ("pull", "push")

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        agents: int,
        pull: float | torch.Tensor = 0.1,
        push: float | torch.Tensor = 0.5,
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
                "push": push,
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

    def _meet(self, x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
        pull, push = self._scalar(0, "pull"), self._scalar(0, "push")
        pull_push(x, mean, squared_distance, pull, push)
