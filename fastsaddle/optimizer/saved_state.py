"""Refuses saved states that do not fit, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.optimizer.state import ROUND, copy_name

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


def check_state(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError where a state has other shapes, or lacks what belongs together."""
    saved = [index for group in state_dict["param_groups"] for index in group["params"]]
    mine = [p for group in optimizer.param_groups for p in group["params"]]
    for index, p in zip(saved, mine, strict=False):
        held = state_dict["state"].get(index, {})
        check_copies(optimizer, index, held)
        check_counted(optimizer, index, held)
        for name, value in held.items():
            shape = optimizer.state[p][name].shape if name in optimizer.state[p] else p.shape
            if name in optimizer.state[p] and not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"state {name} of parameter {index} must be a tensor, got {value!r}"
                )
            if isinstance(value, torch.Tensor) and value.shape != shape:
                raise ValueError(
                    f"state {name} of parameter {index} must have shape {tuple(shape)}, "
                    f"got {tuple(value.shape)}"
                )


def check_copies(optimizer: Optimizer, index: int, held: Mapping[str, Any]) -> None:
    """Raise ValueError where parameter `index` comes with a part of what belongs together."""
    for row in optimizer.rule.sends:
        together = [copy_name(row, state.name) for state in optimizer.communicator.states]
        missing = [name for name in together if name not in held]
        if missing and together[0] in held:
            raise ValueError(
                f"state {together[0]} of parameter {index} must come with {', '.join(missing)}, "
                f"got {', '.join(held)}"
            )


def check_counted(optimizer: Optimizer, index: int, held: Mapping[str, Any]) -> None:
    """Raise ValueError where steps are counted that the rule's own state of parameter `index` has not seen."""
    own = optimizer.rule.states_with(optimizer.communicator)
    missing = [s.name for s in own if s.width == "columns" and s.name not in held]
    if ROUND in own and missing and int(held.get(ROUND.name, 0)):
        raise ValueError(
            f"state {ROUND.name} of parameter {index} must come with {', '.join(missing)} "
            f"for {optimizer.rule.name}, got {', '.join(held)}"
        )
