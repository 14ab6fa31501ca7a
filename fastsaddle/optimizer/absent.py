"""Agents that take no part in a step: all that is kept of them stays as it is, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Found
    from fastsaddle.optimizer.shell import Optimizer


def without(found: Found, down: torch.Tensor) -> Found:
    """What a step goes on with where some agents, bool `[agents]`, have no gradient."""
    return replace(found, norm=found.norm.masked_fill(down, torch.nan))


def kept_of(optimizer: Optimizer, down: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Models and states of agents, bool `[agents]`: `[agents, ...]` buffers, and the rows of those that are down."""
    live, home = optimizer.live, optimizer.phase.home
    models = optimizer.rows.x
    own = [state.name for state in optimizer.states if state.rows != "one"]
    wide = [live.flat_state[name] for name in own if name in live.flat_state]
    # a number for each group and agent
    numbers = [live.scalar_state[name].T for name in own if name in live.scalar_state]
    before = models if home is None else home
    return [(models, before[down]), *((rows, rows[down]) for rows in [*wide, *numbers])]


def leave_as_kept(
    optimizer: Optimizer, down: torch.Tensor, kept: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Leave agents where `kept_of` found them; they have sent nothing."""
    for rows, before in kept:
        rows[down] = before
    optimizer.live.squares[:, :, down] = 0
