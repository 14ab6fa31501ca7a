"""Adam whose second moment, or both moments, follow what local step and gossip together moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.compressors._wire import row_norms
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.kernels._shared.square_root import square_root
from fastsaddle.optimizer.hyperparameters import POSITIVE, Pair
from fastsaddle.optimizer.rows import Rows
from fastsaddle.optimizer.state import ROUND, State
from fastsaddle.rules.base import Rule

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

# keeps an agent that has not moved from being divided by zero
SMALL = 1e-8


class QGAdam(Rule):
    """QG-Adam: Adam whose second moment, or both moments, follow how step and gossip moved the model.

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
        betas: beta1 and beta2, both in [0, 1).
        eps: added to the root of the second moment, >= 0.
        quasi_global: which moments are quasi-global: "second" or "both".

    Raises:
        ValueError: betas that are not two numbers in [0, 1), or another word for `quasi_global`.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     lr=1e-3,
        ...     rule=fs.rules.QGAdam(),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
        >>> [*optimizer.flat_state]
        ['exp_avg', 'quasi_global_sq']
    """

    hyperparameters = {"betas": Pair((0.9, 0.999)), "eps": POSITIVE}
    is_elementwise = True
    needs = GraphNeeds(symmetric=False)
    is_atomic = True

    def __init__(
        self,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        quasi_global: Literal["second", "both"] = "second",
    ) -> None:
        if quasi_global not in ("second", "both"):
            raise ValueError(f'quasi_global must be "second" or "both", got {quasi_global!r}')
        super().__init__(betas=betas, eps=eps)
        self.quasi_global = quasi_global
        self.ascent_state = "exp_avg" if quasi_global == "second" else "quasi_global"
        self.states = (State(self.ascent_state), State("quasi_global_sq"), ROUND)

    def refuses(self, communicator: Communicator) -> str | None:
        if not communicator.averages and not communicator.once_a_step:
            return (
                f"{self.name} needs Gossip with every=1 and rounds=1, whose displacement it follows"
            )
        return None

    def advance(self, groups: list[tuple[Rows, Round]], optimizer: Optimizer) -> None:
        before = [rows.x.clone() for rows, _ in groups]
        super().advance(groups, optimizer)
        moved = torch.cat([x - rows.x for x, (rows, _) in zip(before, groups, strict=True)], 1)
        # one norm over all groups
        moved /= row_norms(moved)[:, None] + SMALL
        parts = moved.split([rows.x.shape[1] for rows, _ in groups], 1)
        for (rows, _), part in zip(groups, parts, strict=True):
            self._absorb(rows, part)

    def step(self, rows: Rows, comm: Round) -> None:
        (beta1, beta2), g = rows.group["betas"], rows.g
        first, second = self._moments(rows)
        t = (rows.round + 1).double()
        v = (g * g).mul_(1 - beta2).add_(beta2 * second)
        if self.quasi_global == "second":
            m = first.copy_((beta1 * first).add_((1 - beta1) * g))
        else:
            m = (beta1 * first).add_(g)
        scale = (1 - beta2**t).sqrt().float().expand(v.shape)
        direction = m / square_root(v).div_(scale).add_(rows.number("eps"))
        rate = rows.lr / (1 - beta1**t).float().reshape(-1, 1)
        rows.x.copy_(comm.mixed(rows.x - direction.mul_(rate)))

    def _moments(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.ascent_state is not None
        return rows.states[self.ascent_state], rows.states["quasi_global_sq"]

    def _absorb(self, rows: Rows, moved: torch.Tensor) -> None:
        """Take the normalized displacement into the quasi-global moments."""
        beta1, beta2 = rows.group["betas"]
        first, second = self._moments(rows)
        second.copy_(beta2 * second + (1 - beta2) * (moved * moved))
        if self.quasi_global == "both":
            first.copy_(beta1 * first + (1 - beta1) * moved)
