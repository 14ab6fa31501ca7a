"""The losses of all agents, at once or in turn, and their mean."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastsaddle.stacks.mapping import Arguments


def at_once(criterion: Callable[..., Tensor], of: Arguments) -> Tensor:
    """`criterion` of each agent's part, mapped over agents: `[agents]`.

    Raises:
        ValueError: it does not give a scalar.
    """

    def one(tensors: list[Tensor]) -> Tensor:
        args, _ = of.with_tensors(tensors)
        return _scalar(criterion(*args))

    return torch.vmap(one, randomness="different")(of.tensors)


def in_turn(criterion: Callable[..., Tensor], of: Arguments, agents: int) -> Tensor:
    """The same, agent after agent."""
    return torch.stack([_scalar(criterion(*of.of(agent)[0])) for agent in range(agents)])


def _scalar(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else str(type(loss))
        raise ValueError(f"criterion must give a scalar for each agent, got {got}")
    return loss


class MeanLoss(torch.autograd.Function):
    """The mean of all agents' losses; to each of them it passes on the whole gradient."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor) -> Tensor:  # type: ignore[override]
        ctx.shape = losses.shape
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.expand(ctx.shape)
