"""Momentum tracking: local momentum whose drift from the mean momentum is tracked and taken off."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.graphs.topology import Topology
from fastsaddle.rules.tracking_optimizer import Rows, TrackingOptimizer, column


class MomentumTracking(TrackingOptimizer):
    """Local momentum u_i less its tracked deviation c_i from the agents' mean.

        u_i = beta u_i + g_i
        x_i = sum_j W_ij x_j - lr (u_i - c_i)
        c_i = sum_j W_ij (c_j - u_j) + u_i

    Takezawa et al. 2022 (arXiv:2209.15505) and the authors' code, from c = 0 (their demo begins with one exact
    average; the sum of c stays zero either way). momentum = 0 is gradient tracking. Two rows are sent to each neighbor
    a step. State: `momentum_buffer` (u), `correction` (c).

    Args:
        momentum: beta, in [0, 1).
        consensus_step: gamma; both rows are mixed by (1 - gamma) I + gamma W.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" counts them as zero.

    Other arguments and errors: as in `DSGD`.
    """

    buffers = ("momentum_buffer", "correction")
    sent = 2

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float = 0.9,
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
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            topology=topology,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
        )

    def box(self, rows: Rows) -> None:
        u, c = rows.states["momentum_buffer"], rows.states["correction"]
        u.mul_(column(rows.beta)).add_(rows.g)
        c.sub_(u)
        # c holds c - u now, which is what the neighbors get
        rows.x.copy_(rows.mixed(rows.x).add_(column(rows.lr) * c))
        c.copy_(rows.mixed(c).add_(u))
