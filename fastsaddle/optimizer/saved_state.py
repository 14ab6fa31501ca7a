"""Saved states: what is refused before loading, float32 values that torch would cast, models under `train()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter

from fastsaddle.optimizer.binding import MASTER
from fastsaddle.optimizer.rounded_parameters import is_rounded
from fastsaddle.optimizer.state import ROUND, State, copy_name

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


def check_state(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Raise ValueError where a state has other shapes, or lacks what belongs together."""
    shapes = {
        s.name: partial(shape_of, optimizer, s) for s in optimizer.states if s.width != "group"
    }
    for index, p in paired(optimizer, state_dict):
        held = state_dict["state"].get(index, {})
        check_together(optimizer, index, held)
        check_counted(optimizer, index, held)
        for name, value in held.items():
            if name in shapes and not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"state {name} of parameter {index} must be a tensor, got {value!r}"
                )
            # of other names some other optimizer knows the shapes
            shape = shapes[name](p) if name in shapes else None
            if shape is not None and value.shape != shape:
                raise ValueError(
                    f"state {name} of parameter {index} must have shape {tuple(shape)}, "
                    f"got {tuple(value.shape)}"
                )


def paired(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> Iterator[tuple[Any, Parameter]]:
    """Each saved parameter's key with the parameter that its state is for, in the order of the groups."""
    saved = (index for group in state_dict["param_groups"] for index in group["params"])
    # torch itself refuses groups of other lengths
    return zip(saved, optimizer.parameters, strict=False)


def shape_of(optimizer: Optimizer, state: State, p: Parameter) -> torch.Size:
    """The shape of a state as a parameter holds it."""
    if state.is_per_agent:
        return torch.Size([optimizer.agents])
    if state.width == "scalar":
        return torch.Size([])
    one_for_all = optimizer.stacked and state.rows == "one"
    return torch.Size([1, *p.shape[1:]]) if one_for_all else p.shape


def uncast(
    optimizer: Optimizer, state_dict: Mapping[str, Any]
) -> dict[Parameter, dict[str, torch.Tensor]]:
    """Saved tensors as they are: torch casts what it loads to the parameter's dtype, bfloat16 or float32."""
    doubles = {state.name for state in optimizer.states if state.dtype == torch.float64}
    return {
        p: {
            name: value.detach().clone()
            for name, value in state_dict["state"].get(index, {}).items()
            if isinstance(value, torch.Tensor) and (is_rounded(p) or name in doubles)
        }
        for index, p in paired(optimizer, state_dict)
        if (is_rounded(p) or doubles) and index in state_dict["state"]
    }


def models_ahead(optimizer: Optimizer) -> dict[Parameter, torch.Tensor]:
    """Where `train()` has parameters stand elsewhere: the float32 models, by parameter; otherwise empty."""
    if not optimizer.live.trains:
        return {}
    # as they were laid out when they moved, whatever groups name by now
    moved = optimizer.rows.parameters[: optimizer.count]
    return dict(zip(moved, optimizer.phase.home_parts, strict=False))


def replace_masters(optimizer: Optimizer, state: dict[Any, Any], keys: Mapping[Any, Any]) -> None:
    """Let a state that is to be saved hold models as masters, where `train()` has these stand elsewhere."""
    for p, model in models_ahead(optimizer).items():
        if p in keys and MASTER in optimizer.state[p]:
            state[keys[p]] = {**state[keys[p]], MASTER: model.clone()}


def check_together(optimizer: Optimizer, index: int, held: Mapping[str, Any]) -> None:
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
