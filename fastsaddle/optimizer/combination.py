"""Which gradient, rule and communicator make an optimizer together."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fastsaddle.comm.base import Communicator
from fastsaddle.comm.choco import CompressedGossip, check_copies
from fastsaddle.graphs.needs import AGREEMENT, SUMS, check_weights
from fastsaddle.optimizer.hyperparameters import TAKEN, Hyperparameter
from fastsaddle.optimizer.state import ROUND

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.ranks.placement import Placement


class Connects(Protocol):
    """What `communicator=` names: something that makes a communicator for the parameters' leading dimension."""

    @property
    def hyperparameters(self) -> Mapping[str, Hyperparameter]: ...

    @property
    def defaults(self) -> Mapping[str, Any]: ...

    def connect(self, leading: int | None) -> Communicator: ...


def connected(plan: Any, leading: int | None, placement: Placement | None) -> Communicator:
    """What `communicator=` makes for parameters with `leading` rows; raises ValueError where it knows no processes."""
    found: Communicator
    if placement is None:
        found = plan.connect(leading)
        return found
    if "placement" not in inspect.signature(plan.connect).parameters:
        raise ValueError(
            f"{type(plan).__name__} works within one process: its connect(leading, placement) takes no placement"
        )
    found = plan.connect(leading, placement)
    return found


def check_parts(optimizer: Optimizer) -> None:
    """Raise ValueError where gradient, rule and communicator cannot be combined."""
    refused = (
        optimizer.rule.refuses(optimizer.communicator)
        or optimizer.rule.refuses_gradient(optimizer.gradient)
        or optimizer.gradient.refuses(optimizer.rule, optimizer.communicator)
    )
    if refused is not None:
        raise ValueError(refused)
    # the steps done are everybody's
    names = [state.name for state in optimizer.declared if state != ROUND]
    twice = sorted({name for name in names if names.count(name) > 1 or name == ROUND.name})
    if twice:
        raise ValueError(
            f"states of an optimizer's parts must differ, got {', '.join(twice)} twice"
        )
    steps = 4 + optimizer.is_named
    needs, gamma = optimizer.rule.needs, optimizer.communicator.consensus_step
    weaker = weaker_kinds(optimizer)
    needs.check(optimizer.topology, gamma, optimizer.who, steps, weaker)
    if optimizer.communicator.push_sum:
        check_weights(optimizer.topology, gamma, optimizer.who)
    lost, here = optimizer.communicator.given_up, optimizer.communicator.placement
    # what all ranks would say alike is said once
    if lost is not None and (here is None or here.rank == 0):
        warnings.warn(lost, RuntimeWarning, stacklevel=steps - 1)
    if optimizer.state_dtype != torch.float32:
        if not optimizer.rule.keeps_half:
            raise ValueError(f"state_dtype must be torch.float32 for {optimizer.rule.name}")
        ascent = optimizer.gradient.ascent
        if ascent is not None and ascent.ascends_along_momentum:
            raise ValueError(
                "MomentumSAM needs state_dtype torch.float32 to ascend along the momentum, "
                f"got {optimizer.state_dtype}"
            )
        if isinstance(optimizer.communicator, CompressedGossip):
            check_copies(optimizer.communicator.choco, optimizer.state_dtype)
    for state in optimizer.states:
        if state.width == "scalar" and state.rows == "one" and state.name != ROUND.name:
            raise ValueError(
                f"{optimizer.who} cannot keep {state.name}: one number for the whole optimizer is ROUND alone, "
                'others are rows="agents"'
            )
    check_groups(optimizer)


def weaker_kinds(optimizer: Optimizer) -> tuple[str, ...]:
    """Kinds of W that are enough for this communicator; raises ValueError where the rule cannot work with it."""
    rule, communicator = optimizer.rule, optimizer.communicator
    if communicator.push_sum and not rule.takes_push_sum:
        raise ValueError(
            f"push_sum=True is for rules that adapt, then combine: fs.rules.Momentum, got {rule.name}"
        )
    if communicator.pushes and not rule.takes_pushes:
        raise ValueError(
            f"fs.comm.PushPull has two matrices, for fs.rules.PushPull, got {rule.name}"
        )
    return (SUMS,) if communicator.push_sum else (AGREEMENT,) if communicator.pushes else ()


def check_groups(optimizer: Optimizer) -> None:
    """Raise ValueError, before anything moves, for parameter groups that a part cannot work with."""
    optimizer.rule.check_groups(optimizer.param_groups)
    optimizer.communicator.check_groups(optimizer.param_groups)


def apart(*entries: Mapping[str, Hyperparameter]) -> dict[str, Hyperparameter]:
    """All parts' entries of the parameter groups; raises ValueError where one would take another's place."""
    found: dict[str, Hyperparameter] = {}
    for part in entries:
        taken = sorted(part.keys() & {*found, *TAKEN})
        if taken:
            raise ValueError(
                f"hyperparameters of an optimizer's parts must differ, got {', '.join(taken)} twice"
            )
        found |= part
    return found
