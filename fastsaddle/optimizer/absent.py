"""Agents that take no part in a step: all that is kept of them stays as it is, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

# rows of a buffer, which of them, and their values
Kept = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Found
    from fastsaddle.optimizer.shell import Optimizer


def without(found: Found, down: torch.Tensor) -> Found:
    """What a step goes on with where some agents have no gradient; `down` as `Communicator.down` has it."""
    own = down[: len(found.norm)]
    return replace(found, norm=found.norm.masked_fill(own, torch.nan))


def kept_of(optimizer: Optimizer, down: torch.Tensor) -> list[Kept]:
    """Models and states of those that are down: where they lie in buffers, and what is there.

    Copies of agents elsewhere that are down stay too: they have sent nothing.
    """
    # what the step before sent belongs to what is kept
    optimizer.communicator.catch_up()
    live, home, agents = optimizer.live, optimizer.phase.home, optimizer.agents
    models = optimizer.rows.x
    kept = [state.name for state in optimizer.states if state.rows != "one"]
    wide = [live.flat_state[name] for name in kept if name in live.flat_state]
    # a number for each group and agent
    numbers = [live.scalar_state[name].T for name in kept if name in live.scalar_state]
    before = models if home is None else home
    own, elsewhere = down[:agents], down[agents:]
    found = [(models, own, before[own])]
    found += [(rows[:agents], own, rows[:agents][own]) for rows in [*wide, *numbers]]
    heard = [rows[agents:] for rows in live.heard.buffers.values()] if len(elsewhere) else []
    return found + [(rows, elsewhere, rows[elsewhere]) for rows in heard]


def leave_as_kept(optimizer: Optimizer, down: torch.Tensor, kept: list[Kept]) -> None:
    """Leave agents where `kept_of` found them; they have sent nothing."""
    for rows, which, before in kept:
        rows[which] = before
    optimizer.live.squares[:, :, down[: optimizer.agents]] = 0
