"""Sees to it that a closure leaves its own gradient, where a sum with an earlier one would be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


def must_be_own(optimizer: Optimizer) -> bool:
    """Whether the next evaluation's gradient must hold nothing of others: one of several, or at another model."""
    phase = optimizer.phase
    moved = phase.home is not None or phase.evaluations > 0
    return moved or optimizer.gradient.takes_several(optimizer)


def call_for_own(optimizer: Optimizer, call: Callable[[], Any]) -> Any:
    """Call a closure, and raise where it added its gradient to another.

    Closures that zero gradients themselves are recognized: they call the optimizer's `zero_grad`, or assign other
    tensors. Where one of whom that is not known finds gradients, NaN stands in for one of their elements: who adds to
    it leaves NaN. A step's later evaluations begin with zeroed gradients.

    Raises:
        RuntimeError: the gradients are a sum with those that were there before.
    """
    live = optimizer.live
    is_first = optimizer.phase.evaluations == 0
    if not is_first and not live.renews:
        optimizer.zero_grad()
        return call()
    watched = None if is_first and are_zero(optimizer) else with_gradient(optimizer)
    if watched is not None and watched.is_cuda and torch.cuda.is_current_stream_capturing():
        # the steps before, which were taken eagerly, have been looked at
        return call()
    before, gradient = renewals(optimizer), None if watched is None else watched.grad
    probe = None if watched is None or live.renews else Probe(watched)
    try:
        loss = call()
    except BaseException:
        if probe is not None:
            probe.put_back()
        raise
    is_zeroed = renewals(optimizer) != before
    is_replaced = watched is not None and watched.grad is not gradient
    if probe is not None and not is_zeroed and probe.is_left():
        probe.put_back()
        raise RuntimeError(message(optimizer))
    if watched is not None and probe is None and not (is_zeroed or is_replaced):
        # another closure than before, perhaps one that zeroes in place: the next one is probed
        live.renews = False
        raise RuntimeError(message(optimizer))
    live.renews = is_zeroed or (is_replaced and (live.renews or probe is not None))
    return loss


def note_zeroed(optimizer: Optimizer) -> None:
    """Gradients are zero now: note it, and what would tell that something was written into them."""
    optimizer.live.zeroed += 1
    optimizer.live.zero_at = optimizer.rows.written


def are_zero(optimizer: Optimizer) -> bool:
    """Whether all gradients are known to be zero, without reading them."""
    rows = optimizer.rows
    is_zero, buffers = rows.written == optimizer.live.zero_at, rows.gradient_buffers
    gradients = (p.grad for p in optimizer.parameters)
    return all(
        grad is None or (is_zero and any(grad._base is rows for rows in buffers))
        for grad in gradients
    )


def with_gradient(optimizer: Optimizer) -> torch.Tensor | None:
    """The first parameter that has a gradient; None where none has."""
    return next((p for p in optimizer.parameters if is_dense(p.grad)), None)


def is_dense(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and gradient.layout == torch.strided and gradient.numel() > 0


def renewals(optimizer: Optimizer) -> tuple[int, int]:
    """Changes whenever gradients are zeroed by the optimizer, or all written anew by a gradient engine."""
    return optimizer.live.zeroed, optimizer.rows.renewals


class Probe:
    """NaN in place of the first element of a parameter's gradient."""

    def __init__(self, p: torch.Tensor) -> None:
        self.p = p
        self.value = self.element.clone()
        self.element.fill_(torch.nan)

    @property
    def element(self) -> torch.Tensor:
        assert self.p.grad is not None
        return self.p.grad.detach()[(0,) * self.p.dim()]

    def is_left(self) -> bool:
        return is_dense(self.p.grad) and bool(self.element.isnan())

    def put_back(self) -> None:
        if self.is_left():
            self.element.copy_(self.value)


def message(optimizer: Optimizer) -> str:
    """What is wrong with a closure that added its gradient, and what to write."""
    ascent = optimizer.gradient.ascent
    ahead = ascent is not None and ascent.ascends_along_momentum
    by_hand = optimizer.gradient.needs_closure is None and optimizer.passes == 2
    return (
        f"gradients must be zeroed by the closure of {optimizer.who}, which got its gradient added to those that were "
        "there before (or NaN): zero them in the closure; "
        + (
            "to accumulate over batches (accumulate_grad_batches), call backward on each of them, "
            "perturb(zero_grad=True), backward on each again, and step()"
            if by_hand
            else "to accumulate over batches (accumulate_grad_batches), call train(), backward on each, and step()"
            if ahead and optimizer.gradient.needs_closure is None
            else "batches cannot be accumulated (accumulate_grad_batches) where gradients are taken at other models"
        )
    )
