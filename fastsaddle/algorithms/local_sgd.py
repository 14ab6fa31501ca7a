"""LocalSGD: agents train alone and are averaged now and then."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.period import QSR
from fastsaddle.kernels.pull_push import pull_push
from fastsaddle.rules.averaging_optimizer import AveragingOptimizer, Local


class LocalSGD(AveragingOptimizer):
    """`period` local steps, then every model becomes the agents' mean.

        x_i = x_i - lr sgd(g_i)                   each step
        x_i = (1/n) sum_j x_j                     each `period` steps

    Stich 2018 (arXiv:1805.09767); McMahan et al. 2016 (arXiv:1602.05629) call it federated averaging. Momentum buffers
    stay each agent's own. State: `momentum_buffer`; parameter groups remember `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters, `[agents, ...]` each.
        lr: learning rate, a float or a 0-d tensor; read at every step.
        agents: how many.
        period: steps between averages, >= 1, or `fs.QSR(...)`, which lengthens them as lr falls.
        momentum: beta in [0, 1), of the local steps: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form.
        weight_decay: L2 coefficient, added to the gradient.
        local: a callable from one agent's parameters to the torch optimizer that takes its local steps instead, such as
            `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`; its lr follows this one's.

    Other arguments: as in `DSGD`.

    Raises:
        ValueError: hyperparameters out of range, a period below 1, `local` together with weight decay or maximize, or
            parameters that are not float32 `[agents, ...]` on one device.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        agents: int,
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
        pull_push(x, mean, squared_distance, x.new_tensor(1.0), x.new_tensor(0.0))
