"""Steps that a `torch.amp.GradScaler` drives: what it tells an optimizer that skips steps by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


class FromScaler:
    """An attribute that a scaler sets before a step and deletes after it, in what copies of `__dict__` share."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        told = {} if optimizer is None else optimizer.live.scaler
        if self.name not in told:
            raise AttributeError(self.name)
        return told[self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer.live.scaler[self.name] = value

    def __delete__(self, optimizer: Any) -> None:
        # a step has taken it already
        optimizer.live.scaler.pop(self.name, None)


def overflowed(optimizer: Optimizer, told: dict[str, Any]) -> bool:
    """Whether a gradient of this step was not finite, in whichever pass and process.

    It waits for the device, as the scaler does, and over processes for all of them: a step that some skip, and others
    do not, would mix models of different steps from then on.
    """
    first = optimizer.phase.norm
    here = bool(told["found_inf"]) or (first is not None and not bool(first.isfinite().all()))
    return optimizer.communicator.is_anywhere(here)


def unscale(optimizer: Optimizer, told: dict[str, Any]) -> None:
    """Divide gradients by the scale that `GradScaler.unscale_` has not divided them by, as it does."""
    scale = told.get("grad_scale")
    if scale is not None:
        optimizer.collect()
        columns, factor = optimizer.model_columns, torch.as_tensor(scale).double().reciprocal()
        for rows in optimizer.rows.gradient_buffers:
            rows[:, columns].mul_(factor.float())


def refuse_closure(optimizer: Optimizer) -> None:
    """Raise RuntimeError: a scaler does not learn which of a closure's gradients overflow."""
    ascent = optimizer.gradient.ascent
    by_hand = optimizer.gradient.needs_closure is None
    ahead = by_hand and ascent is not None and ascent.ascends_along_momentum
    raise RuntimeError(
        f"GradScaler.step takes no closure for {optimizer.who}, as it would not learn of overflows in it: "
        + (
            "optimizer.train(); scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()"
            if ahead
            else "scaler.scale(loss).backward(); scaler.unscale_(optimizer); optimizer.perturb(zero_grad=True); "
            "scaler.update(); scaler.scale(second_loss).backward(); scaler.step(optimizer); scaler.update()"
            if by_hand
            else "train without a scaler, in bfloat16"
        )
    )
