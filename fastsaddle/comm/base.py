"""The contract of a communicator: one word for a whole gossip step, one for a round alone."""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class LocalStep:
    """What a gossip step does before and after the exchange: the arguments of the gossip_step room.

    Attributes:
        saved: `[agents, columns]` float32, the models to return to after a perturbation; None where there was none.
        g: `[agents, columns]` float32 gradients.
        momentum: `[agents, columns]` float32, updated; None for kind 0.
        lr, weight_decay, beta, mu: float32, 0-d or `[agents]`.
        norm: `[agents]` float32, or None: agents whose norm is not finite take no local step.
        kind: 0 no momentum, 1 local, 2 quasi-global.
    """

    saved: torch.Tensor | None
    g: torch.Tensor
    momentum: torch.Tensor | None
    lr: torch.Tensor
    weight_decay: torch.Tensor
    beta: torch.Tensor
    mu: torch.Tensor
    norm: torch.Tensor | None
    kind: int
    nesterov: bool
    maximize: bool


class Communicator(Protocol):
    """Moves models along the edges of a graph.

    Attributes:
        agents: rows of the buffers it works on: all agents, or those of this process.
        messages: models sent in one round by those agents, to all their neighbors together.
    """

    agents: int
    messages: int

    def gossip_step_(self, x: torch.Tensor, step: LocalStep) -> None:
        """Local step, x = W h, momentum; all in place on `x` `[agents, columns]` float32."""

    def mix_(self, x: torch.Tensor) -> None:
        """One gossip round alone: x = W x, in place on `[agents, columns]` float32."""
