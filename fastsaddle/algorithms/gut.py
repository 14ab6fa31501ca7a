"""Global update tracking: gradients at the mixed models, and a tracked mean of all updates."""

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.graphs.topology import Topology
from fastsaddle.kernels.op import use_backend
from fastsaddle.optimizer.stacked_optimizer import Closure
from fastsaddle.rules.tracking_optimizer import Rows, TrackingOptimizer


class GUT(TrackingOptimizer):
    """GUT: every agent follows an estimate of the network's mean update, gossip included.

        xm_i = sum_j W_ij x_j
        d_i  = grad F_i(xm_i) - (xm_i - x_i) / lr_prev
        y_i  = d_i + tracking (sum_j W_ij (xp_j - x_j) / lr_prev - dp_i - b (sum_j W_ij xp_j - xp_i) / lr_prev)
        x_i  = x_i - lr sgd(y_i)

    with xp, dp and lr_prev of the step before and b = 1 + beta (+ beta^2 with Nesterov's form); y = d in the first
    step, where lr_prev is lr. A step at lr = 0 changes nothing. Aketi, Hashemi and Roy 2023 (arXiv:2305.04792) and the
    authors' code; with momentum it is their QG-GUTm. Gossip enters through d alone. One row is sent to each neighbor a
    step, x - xp. State: `previous` (xp), `previous_mixed` (W xp), `update` (d), `momentum_buffer`; lr_prev is in the
    groups as `previous_lr`.

    `step` needs a closure: parameters are at the mixed models while it runs, and at x again afterwards.

    Args:
        tracking: mu >= 0; the published runs take 0.9 without momentum and 0.005 to 0.08 with it.
        momentum: beta in [0, 1): heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form.
        consensus_step: gamma; W is replaced by (1 - gamma) I + gamma W.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" counts them as zero.

    Other arguments and errors: as in `DSGD`.
    """

    buffers = ("previous", "previous_mixed", "update", "momentum_buffer")
    remembered = ("previous_lr",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        tracking: float = 0.9,
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
                "tracking": tracking,
                "momentum": momentum,
                "nesterov": nesterov,
                "previous_lr": None,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            topology=topology,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
        )

    @property
    def decides_on_host(self) -> str | None:
        return "GUT keeps the learning rate of the step before on the host"

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Take gradients at the mixed models, then the step. Returns the closure's loss.

        Raises:
            RuntimeError: no closure.
            NonFiniteGradientError: see `nonfinite`.
        """
        if closure is None:
            raise RuntimeError("GUT takes gradients at the mixed models: step needs a closure")
        with use_backend(self.backend):
            self._follow()
            columns = self._first_columns(len(self.param_groups))
            x = self.rows.x[:, columns]
            own, self._mixed = x.clone(), self.communicator.mixed(x)
        try:
            x.copy_(self._mixed)
            with torch.enable_grad():
                loss = closure()
        finally:
            self.rows.x[:, columns].copy_(own)
        with use_backend(self.backend):
            self._prepare()
            self._advance(self._check_gradients())
        return loss

    def _rows(self, index: int) -> Rows:
        lr = self.param_groups[index]["lr"]
        if torch.as_tensor(lr).numel() > 1:
            raise ValueError(f"GUT needs one lr for all agents, got {tuple(lr.shape)} of them")
        return super()._rows(index)

    @property
    def _evaluated(self) -> torch.Tensor:
        return self._mixed

    def box(self, rows: Rows) -> None:
        group, x = rows.group, rows.x
        if not bool(rows.lr > 0):
            return
        before, beta = group["previous_lr"], group["momentum"]
        rate = torch.as_tensor(group["lr"] if before is None else before).to(x).expand_as(x)
        previous, previous_mixed, update = (rows.states[name] for name in self.buffers[:3])
        mixed = self._mixed[:, rows.columns]
        d = rows.g - (mixed - x) / rate
        y = d
        if before is not None:
            times = 1 + beta + (beta**2 if group["nesterov"] else 0)
            expected = update + times * ((previous_mixed - previous) / rate)
            y = d + group["tracking"] * ((previous_mixed - mixed) / rate - expected)
        previous.copy_(x)
        previous_mixed.copy_(mixed)
        update.copy_(d)
        x.copy_(rows.descended(x, y))

    def _apply(self, groups: list[Rows], norm: torch.Tensor) -> None:
        super()._apply(groups, norm)
        for rows in groups:
            lr = rows.group["lr"]
            if bool(rows.lr > 0):
                rows.group["previous_lr"] = lr.clone() if isinstance(lr, torch.Tensor) else lr
