"""Gradient tracking and momentum tracking: every agent descends an estimate of the network's mean."""

from __future__ import annotations

import torch

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.gradients.ascents import Ascent, MomentumSAM
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.optimizer.hyperparameters import Flag, Range, differ
from fastsaddle.optimizer.rows import MOMENTUM, Rows
from fastsaddle.optimizer.state import State
from fastsaddle.rules.base import Rule


class Tracking(Rule):
    """Base of rules that correct for heterogeneous data by rows that they send besides the models."""

    needs = GraphNeeds(symmetric=False)
    is_elementwise = True
    is_atomic = True
    ascent_state: str | None = MOMENTUM

    def refuses(self, communicator: Communicator) -> str | None:
        if communicator.averages:
            return f"{self.name} tracks sums along a graph, Average has none"
        if not communicator.once_a_step:
            return f"{self.name} needs Gossip with every=1 and rounds=1: its sums would not add up otherwise"
        return None

    def refuses_ascent(self, sam: Ascent) -> str | None:
        refused = super().refuses_ascent(sam)
        if (
            refused is None
            and isinstance(sam, MomentumSAM)
            and not differ(self.defaults["momentum"], 0)
        ):
            return f"MomentumSAM needs momentum > 0 of {self.name}, got {self.defaults['momentum']}"
        return refused


class GradientTracking(Tracking):
    """DSGT, gradient tracking: steps along an estimate of the mean of all agents' gradients.

        y_i = sum_j W_ij y_j + g_i - g_i of the step before        (y_i = g_i at first)
        x_i = sum_j W_ij x_j - lr sgd(y_i)

    Heterogeneous data leave no bias. Di Lorenzo and Scutari 2016 (arXiv:1602.00391); Nedic, Olshevsky and Shi 2017
    (arXiv:1607.03218), in the combine-then-adapt form of the code of arXiv:2102.04761. Two rows are sent to each
    neighbor a step. With a compressor each has its own public copy r^, and W r is r + gamma (W r^ - r^): a
    reconstruction. State: `tracked` (y), `gradient` (g), `momentum_buffer`.

    Args:
        momentum: beta in [0, 1), of the step along y: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form instead of heavy ball.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     rule=fs.rules.GradientTracking(momentum=0.9),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
        >>> [*optimizer.flat_state]
        ['tracked', 'gradient', 'momentum_buffer']
    """

    hyperparameters = {"momentum": Range(0, 1, default=0.0), "nesterov": Flag()}
    states = (State("tracked"), State("gradient"), State(MOMENTUM))
    sends = ahead = ("tracked", "x")

    def __init__(self, momentum: float | torch.Tensor = 0.0, nesterov: bool = False) -> None:
        super().__init__(momentum=momentum, nesterov=nesterov)

    def step(self, rows: Rows, comm: Round) -> None:
        y, before = rows.states["tracked"], rows.states["gradient"]
        y_mixed, x_mixed = comm.mixed(y, rows.x)
        torch.sub(y_mixed.add_(rows.g), before, out=y)
        before.copy_(rows.g)
        rows.x.copy_(rows.descended(x_mixed, y))


class MomentumTracking(Tracking):
    """Momentum tracking: local momentum u_i minus c_i, its tracked deviation from the agents' mean.

        u_i = beta u_i + g_i
        x_i = sum_j W_ij x_j - lr (u_i - c_i)
        c_i = sum_j W_ij (c_j - u_j) + u_i

    Takezawa et al. 2022 (arXiv:2209.15505) and the authors' code, from c = 0 (their demo begins with one exact
    average; the sum of c stays zero either way). momentum = 0 is gradient tracking. Two rows are sent to each neighbor
    a step, x and c - u; compressed as in `GradientTracking`. State: `momentum_buffer` (u), `correction` (c).

    Args:
        momentum: beta, in [0, 1).

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     rule=fs.rules.MomentumTracking(momentum=0.9),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
        >>> [*optimizer.flat_state]
        ['momentum_buffer', 'correction']
    """

    hyperparameters = {"momentum": Range(0, 1, default=0.9)}
    states = (State(MOMENTUM), State("correction"))
    sends = ("x", "correction")
    # the correction goes with the momentum, which takes the gradient first
    ahead = ("x",)

    def __init__(self, momentum: float | torch.Tensor = 0.9) -> None:
        super().__init__(momentum=momentum)

    def step(self, rows: Rows, comm: Round) -> None:
        u, c = rows.states[MOMENTUM], rows.states["correction"]
        u.mul_(rows["momentum"]).add_(rows.g)
        c.sub_(u)
        # c holds c - u now, which is what the neighbors get
        x_mixed, c_mixed = comm.mixed(rows.x, c)
        torch.add(x_mixed, rows.lr * c, out=rows.x)
        torch.add(c_mixed, u, out=c)
