"""Gradient tracking on graphs that point one way, with a matrix for models and another for what is tracked."""

from __future__ import annotations

import torch

from fastsaddle.comm.base import Round
from fastsaddle.optimizer.rows import Rows
from fastsaddle.optimizer.state import State
from fastsaddle.rules.tracking import Tracking


class PushPull(Tracking):
    """Push-Pull: models are pulled by R, whose rows sum to one, gradients are pushed by C, whose columns sum to one.

        y_i = sum_j C_ij y_j + g_i - g_i of the step before        (y_i = g_i at first)
        x_i = sum_j R_ij (x_j - lr y_j)

    Pu, Shi, Xu and Nedic 2018 (arXiv:1810.06653); the same two matrices, the models combined before they are adapted,
    are AB (Xin and Khan 2018, arXiv:1803.02503). The sum of y is that of the gradients, so that all agents' gradients
    count alike on any strongly connected graph. Two rows are sent along each edge a step. With `fs.comm.Gossip` R and C
    are W, which must be doubly stochastic, and with a compressor each row has its own public copy: a reconstruction.
    State: `tracked` (y), `gradient` (g).

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     rule=fs.rules.PushPull(),
        ...     communicator=fs.comm.PushPull("directed-ring"),
        ... )
        >>> [*optimizer.flat_state]
        ['tracked', 'gradient']
    """

    states = (State("tracked"), State("gradient"))
    sends = ("tracked", "x")
    ahead = ("tracked",)
    ascent_state = None
    takes_pushes = True

    def step(self, rows: Rows, comm: Round) -> None:
        y, before = rows.states["tracked"], rows.states["gradient"]
        torch.sub(comm.pushed(y).add_(rows.g), before, out=y)
        before.copy_(rows.g)
        rows.x.copy_(comm.mixed(rows.descended(rows.x, y)))
