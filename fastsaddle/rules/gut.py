"""Global update tracking: gradients at the mixed models, and a tracked mean of all updates."""

from __future__ import annotations

from typing import Any

import torch

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.gradients.ascents import Ascent, MomentumSAM
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.optimizer.hyperparameters import POSITIVE, Flag, Range, is_many
from fastsaddle.optimizer.rows import MOMENTUM, Rows
from fastsaddle.optimizer.state import State
from fastsaddle.rules.tracking import Tracking

PREVIOUS_LR = "previous_lr"


class GUT(Tracking):
    """GUT: steps along a tracked estimate of the mean update of all agents, gossip included.

        xm_i = sum_j W_ij x_j
        d_i  = grad F_i(xm_i) - (xm_i - x_i) / lr_prev
        y_i  = d_i + tracking (sum_j W_ij (xp_j - x_j) / lr_prev - dp_i - b (sum_j W_ij xp_j - xp_i) / lr_prev)
        x_i  = x_i - lr sgd(y_i)

    with xp, dp and lr_prev of the step before and b = 1 + beta (+ beta^2 with Nesterov's form); y = d in the first
    step, where lr_prev is lr. A step at lr = 0 changes nothing. Aketi, Hashemi and Roy 2023 (arXiv:2305.04792) and the
    authors' code; with momentum it is their QG-GUTm. Gossip enters through d alone. One row is sent to each neighbor a
    step, x - xp. It needs gradients at the mixed models, `fs.gradients.Mixed()`. State: `previous` (xp),
    `previous_mixed` (W xp), `update` (d), `momentum_buffer`; lr_prev is in the groups as `previous_lr`.

    Args:
        tracking: mu >= 0; the published runs take 0.9 without momentum and 0.005 to 0.08 with it.
        momentum: beta in [0, 1): heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form instead of heavy ball.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     gradient=fs.gradients.Mixed(),
        ...     rule=fs.rules.GUT(),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
        >>> [*optimizer.flat_state]
        ['previous', 'previous_mixed', 'update', 'momentum_buffer']
    """

    hyperparameters = {
        "tracking": POSITIVE,
        "momentum": Range(0, 1, default=0.0),
        "nesterov": Flag(),
    }
    states = (
        *map(State, ("previous", "previous_mixed", "update", MOMENTUM)),
        State(PREVIOUS_LR, width="group"),
    )
    needs = GraphNeeds(symmetric=False, faults="links")
    mixes_before = True
    decides_on_host = "GUT keeps the learning rate of the step before on the host"

    def __init__(
        self,
        tracking: float | torch.Tensor = 0.9,
        momentum: float | torch.Tensor = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(tracking=tracking, momentum=momentum, nesterov=nesterov)
        self.defaults[PREVIOUS_LR] = None

    def refuses(self, communicator: Communicator) -> str | None:
        if communicator.is_compressed:
            return f"{self.name} takes no compressor: errors would add up in the differences that it follows"
        return super().refuses(communicator)

    def refuses_ascent(self, sam: Ascent) -> str | None:
        if isinstance(sam, MomentumSAM):
            return (
                f"MomentumSAM has no meaning for {self.name}, whose momentum follows whole updates"
            )
        return super().refuses_ascent(sam)

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            if is_many(group["lr"]):
                shape = tuple(group["lr"].shape)
                raise ValueError(f"GUT needs one lr for all agents, got {shape} of them")

    def step(self, rows: Rows, comm: Round) -> None:
        group, x = rows.group, rows.x
        mixed = comm.mixed_models(x)
        if not bool(rows.lr > 0):
            return
        before, beta = group[PREVIOUS_LR], rows.number("momentum")
        rate = group["lr"] if before is None else before
        rate = torch.as_tensor(rate, dtype=x.dtype, device=x.device).expand_as(x)
        previous, previous_mixed, update = (
            rows.states[name] for name in ("previous", "previous_mixed", "update")
        )
        d = rows.g - (mixed - x) / rate
        y = d
        if before is not None:
            times = 1 + beta + (beta**2 if group["nesterov"] else 0)
            expected = update + times * ((previous_mixed - previous) / rate)
            y = d + rows.number("tracking") * ((previous_mixed - mixed) / rate - expected)
        previous.copy_(x)
        previous_mixed.copy_(mixed)
        update.copy_(d)
        x.copy_(rows.descended(x, y))

    def end(self, rows: Rows) -> None:
        lr = rows.group["lr"]
        if bool(rows.lr > 0):
            rows.group[PREVIOUS_LR] = lr.clone() if isinstance(lr, torch.Tensor) else lr
