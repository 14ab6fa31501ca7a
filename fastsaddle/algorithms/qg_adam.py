"""Adam whose second moment, or both moments, follow what local step and gossip together moved."""

from typing import Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.compressors._wire import row_norms
from fastsaddle.graphs.topology import Topology
from fastsaddle.rules.tracking_optimizer import Rows, TrackingOptimizer, column

# keeps an agent that has not moved from being divided by zero
SMALL = 1e-8


class QGAdam(TrackingOptimizer):
    """QG-Adam, as its authors' code selects it ("second") and as their paper describes it ("both").

        m    = beta1 m_i + (1 - beta1) g_i           or, "both": beta1 m_i + g_i, not kept
        v    = beta2 v_i + (1 - beta2) g_i^2         not kept
        h_i  = x_i - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
        x'_i = sum_j W_ij h_j
        D_i  = (x_i - x'_i) / (||x_i - x'_i|| + 1e-8)          one norm over the whole model
        v_i  = beta2 v_i + (1 - beta2) D_i^2;   m_i = m, or "both": beta1 m_i + (1 - beta1) D_i

    Lin et al. 2021 (arXiv:2102.04761) and the authors' code, whose default differs from the paper's description: only
    its second moment is quasi-global. One model is sent to each neighbor a step. Weight decay is added to the
    gradient. State: `exp_avg` ("second") or `quasi_global` ("both"), `quasi_global_sq`, and `step`.

    Args:
        betas: both in [0, 1).
        eps: added to the root of the second moment, >= 0.
        quasi_global: which moments are.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" counts them as zero.

    Other arguments and errors: as in `DSGD`, and

    Raises:
        ValueError: betas that are not two numbers in [0, 1), or another word for `quasi_global`.
    """

    counts_rounds = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-3,
        *,
        topology: Topology | str | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        quasi_global: Literal["second", "both"] = "second",
        weight_decay: float = 0.0,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
    ) -> None:
        if quasi_global not in ("second", "both"):
            raise ValueError(f'quasi_global must be "second" or "both", got {quasi_global!r}')
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
        self.quasi_global = quasi_global
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            topology=topology,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
        )

    kept = (*TrackingOptimizer.kept, "quasi_global")

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("exp_avg" if self.quasi_global == "second" else "quasi_global", "quasi_global_sq")

    def _apply(self, groups: list[Rows], norm: torch.Tensor) -> None:
        before = self.rows.x.clone()
        super()._apply(groups, norm)
        columns = self._first_columns(len(self.param_groups))
        moved = before[:, columns] - self.rows.x[:, columns]
        # one norm over all groups, which lie side by side from the first column on
        moved /= row_norms(moved)[:, None] + SMALL
        for index, rows in zip(self._filled(), groups, strict=True):
            self._absorb(rows, moved[:, self._columns(index)])

    def box(self, rows: Rows) -> None:
        (beta1, beta2), g = rows.group["betas"], rows.g
        first, second = (rows.states[name] for name in self.state_names)
        t = (self.rounds + 1).double()
        v = (g * g).mul_(1 - beta2).add_(beta2 * second)
        if self.quasi_global == "second":
            m = first.copy_((beta1 * first).add_((1 - beta1) * g))
        else:
            m = (beta1 * first).add_(g)
        scale = (1 - beta2**t).sqrt().float().expand(v.shape)
        direction = m / v.sqrt_().div_(scale).add_(rows.group["eps"])
        rate = column(rows.lr) / (1 - beta1**t).float().reshape(-1, 1)
        rows.x.copy_(rows.mixed(rows.x - direction.mul_(rate)))

    def _absorb(self, rows: Rows, moved: torch.Tensor) -> None:
        """Take the normalized displacement into the quasi-global moments."""
        beta1, beta2 = rows.group["betas"]
        first, second = (rows.states[name] for name in self.state_names)
        second.copy_(beta2 * second + (1 - beta2) * (moved * moved))
        if self.quasi_global == "both":
            first.copy_(beta1 * first + (1 - beta1) * moved)
