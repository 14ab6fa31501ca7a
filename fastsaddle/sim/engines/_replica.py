"""One agent's plain module, whose parameters, gradients and buffers are that agent's rows of the stack."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.stacks.mapping import assigned_value, buffers_of_layers, put_back


class Replica:
    """One agent's model on its rows of the stack.

    Attributes:
        module: the agent's model.
        rows: its buffers, rows of the stack's.
    """

    def __init__(self, stack: AgentStack, agent: int) -> None:
        parameters, gradients = dict(stack.named_parameters()), dict(stack.named_gradients())
        self.module = copy.deepcopy(stack.template)
        for name, p in self.module.named_parameters():
            p.data = parameters[name].detach()[agent]
            p.grad = gradients[name][agent] if p.requires_grad else None
        for name, b in self.module.named_buffers():
            b.data = stack.buffers[name][agent]
        self.rows = list(self.module.buffers())
        # layers that have some
        self._layers = [of for of in buffers_of_layers(self.module) if of[1]]

    def take_modes(self, modes: Sequence[bool]) -> None:
        """Put each layer into training mode or evaluation, in the order of `modules()`."""
        for layer, mode in zip(self.module.modules(), modes, strict=True):
            layer.training = mode

    def take_back(self) -> list[tuple[str, Tensor | None, Tensor | None]]:
        """Put the rows back where `forward` assigned others: each one's name, the row, and what was assigned."""
        return put_back(self._layers)


@contextmanager
def settled(replicas: Sequence[Replica], resting: Sequence[Tensor] | None) -> Iterator[None]:
    """After the block buffers that modules assigned in it are rows of the stack again, and hold what was assigned.

    Args:
        replicas: those that are called inside.
        resting: None, or buffers that are to be as they were before, whatever was assigned.

    Raises:
        ValueError: a buffer was made anew, or has another shape, dtype or device.
    """
    before = [b.clone() for b in resting or ()]
    # a row or a value that is None is refused before it is read
    assigned: list[tuple[str, Any, Any]] = []
    try:
        yield
    finally:
        for replica in replicas:
            assigned += replica.take_back()
        for b, value in zip(resting or (), before, strict=True):
            b.copy_(value)
    values = [assigned_value(*one) for one in assigned]
    if resting is None:
        with torch.no_grad():
            for (_, row, _), value in zip(assigned, values, strict=True):
                row.copy_(value)
