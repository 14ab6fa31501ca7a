"""D2: the displacement that gossip caused is given back in the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fastsaddle.comm.base import Round
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.optimizer.hyperparameters import Flag, Range
from fastsaddle.optimizer.rows import MOMENTUM, Rows
from fastsaddle.optimizer.state import State
from fastsaddle.rules.tracking import Tracking

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


# rates of the step before, by a group's first column, where they are known on the host
RATES = "rates of the step before"


class D2(Tracking):
    """D2: removes the bias of heterogeneous data, and sends only one row to each neighbor a step.

        c_i = c_i lr / (lr of the step before)                    (left alone where either is zero)
        h_i = x_i - lr sgd(g_i)
        c_i = c_i + sum_j W_ij ((h_j + c_j) - (h_i + c_i))        (c_i = 0 at first)
        x_i = h_i + c_i                                           which is sum_j W_ij (h_j + c_j)

    Tang et al. 2018 (arXiv:1803.07068), in the form of the code of arXiv:2110.04175: at constant lr without momentum it
    is the paper's 2 x_t - x_{t-1} - lr (g_t - g_{t-1}). The correction rests at lr times a gradient, so that it is
    scaled where lr changes; without momentum that is the rate-safe form of the code of arXiv:2102.04761. Differences
    are mixed, not models: what one agent gives the other takes, so that rounding leaves the sum of c at zero. With a
    compressor the row h + c has a public copy v^, and c moves by gamma (W v^ - v^): a reconstruction. State:
    `correction` (c), `momentum_buffer`, and `previous_lr`, a number for each agent.

    W's smallest eigenvalue must be above -1/3. A ring of an even number of agents has exactly -1/3: this
    gives a warning; others use `consensus_step=0.5` there, which mixes by (W + I) / 2.

    Args:
        momentum: beta in [0, 1), of the local step: heavy ball, or Nesterov's form; the paper has none.
        nesterov: use Nesterov's form instead of heavy ball.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=5)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(), rule=fs.rules.D2(), communicator=fs.comm.Gossip("ring")
        ... )
        >>> [*optimizer.flat_state]
        ['correction', 'momentum_buffer']
    """

    hyperparameters = {"momentum": Range(0, 1, default=0.0), "nesterov": Flag()}
    states = (State("correction"), State(MOMENTUM), State("previous_lr", width="scalar"))
    needs = GraphNeeds(least_eigenvalue=-1 / 3, faults="none")

    def __init__(self, momentum: float | torch.Tensor = 0.0, nesterov: bool = False) -> None:
        super().__init__(momentum=momentum, nesterov=nesterov)

    def bind(self, optimizer: Optimizer) -> None:
        # what was loaded may have come from another rate
        optimizer.made[RATES] = {}

    def begin(self, rows: Rows) -> None:
        known, now = rows.made[RATES].get(rows.columns.start), rows.group["lr"]
        if isinstance(now, (int, float)) and known == now:
            return
        before = rows.states["previous_lr"]
        lr = rows.scalar("lr").expand_as(before)
        factor = torch.where((before > 0) & (lr > 0), lr / before, 1.0)
        rows.states["correction"].mul_(factor[:, None])
        before.copy_(lr)

    def end(self, rows: Rows) -> None:
        lr = rows.group["lr"]
        # tensors are not read, a GPU would be waited for: a factor of one changes no bit
        rows.made[RATES][rows.columns.start] = lr if isinstance(lr, (int, float)) else None

    def step(self, rows: Rows, comm: Round) -> None:
        c = rows.states["correction"]
        h = rows.descended(rows.x, rows.g)
        c.add_(comm.differences(h + c))
        torch.add(h, c, out=rows.x)
