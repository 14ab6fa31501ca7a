"""Copies of all that a step changes, for steps that may fail when some of it has moved."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.ranks.errors import PeerError

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


def cannot_fail(optimizer: Optimizer) -> bool:
    """Whether nothing can raise once groups have begun to move."""
    communicator = optimizer.communicator
    is_late = len(optimizer.filled) > 1 or communicator.meets(optimizer)
    if communicator.placement is not None and is_late:
        # another process may fail when some models have moved
        return False
    if not optimizer.communicator.may_refuse or optimizer.rows.x.device.type != "cpu":
        return optimizer.rule.is_atomic
    # a single group's exchange refuses before anything has moved
    return (
        optimizer.rule.exchanges_first
        and optimizer.communicator.refuses_first
        and len(optimizer.filled) == 1
    )


def copies(optimizer: Optimizer) -> list[tuple[Any, Any]]:
    """All that a step changes, with what it is now, in buffers that are kept: fresh memory would cost more."""
    # what the step before sent belongs to what is now
    optimizer.communicator.catch_up()
    live, home, columns = optimizer.live, optimizer.phase.home, optimizer.model_columns
    models = optimizer.rows.x if home is None else home
    # with the rows of agents elsewhere, where there are such
    wide = {**live.flat_state, **live.heard.buffers}
    states = [*wide.values(), *live.scalar_state.values(), live.squares]
    changed = [optimizer.rows.x[:, columns], *states]
    if "undo" not in optimizer.made:
        optimizer.made["undo"] = [torch.empty_like(tensor) for tensor in changed]
    kept = optimizer.made["undo"]
    for before, now in zip(kept, [models[:, columns], *states], strict=True):
        before.copy_(now)
    groups: list[tuple[Any, Any]] = [
        (group, {name: group[name] for name in optimizer.remembered})
        for group in optimizer.param_groups
    ]
    if optimizer.locals is not None:
        optimizer.locals.remember()
    return [*zip(changed, kept, strict=True), *groups]


def put_back(optimizer: Optimizer, copies: list[tuple[Any, Any]]) -> None:
    """Bring back what `copies` gave."""
    # what this step sent must not be added later
    with suppress(PeerError):
        optimizer.communicator.catch_up()
    for changed, before in copies:
        if isinstance(changed, dict):
            changed.update(before)
        else:
            changed.copy_(before)
    if optimizer.locals is not None:
        optimizer.locals.put_back()
    optimizer.rows.second_pass = False
    optimizer.phase.clear()
    optimizer.mark_written()
