"""Gradient tracking: every agent descends an estimate of the network's mean gradient."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.graphs.topology import Topology
from fastsaddle.rules.tracking_optimizer import Rows, TrackingOptimizer


class GradientTracking(TrackingOptimizer):
    """DSGT: y_i follows the mean of all agents' gradients, so that heterogeneous data leave no bias.

        y_i = sum_j W_ij y_j + g_i - g_i of the step before        (y_i = g_i at first)
        x_i = sum_j W_ij x_j - lr sgd(y_i)

    Di Lorenzo and Scutari 2016 (arXiv:1602.00391); Nedic, Olshevsky and Shi 2017 (arXiv:1607.03218), in the
    combine-then-adapt form of the code of arXiv:2102.04761. Two rows are sent to each neighbor a step. State: `tracked`
    (y), `gradient` (g), `momentum_buffer`.

    Args:
        momentum: beta in [0, 1), of the step along y: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form.
        consensus_step: gamma; both rows are mixed by (1 - gamma) I + gamma W.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" counts them as zero.

    Other arguments and errors: as in `DSGD`.
    """

    buffers = ("tracked", "gradient", "momentum_buffer")
    sent = 2

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        consensus_step: float = 1.0,
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
            topology=topology,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
        )

    def box(self, rows: Rows) -> None:
        y, before = rows.states["tracked"], rows.states["gradient"]
        y.copy_(rows.mixed(y).add_(rows.g).sub_(before))
        before.copy_(rows.g)
        rows.x.copy_(rows.descended(rows.mixed(rows.x), y))
