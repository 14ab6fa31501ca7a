"""The arithmetic of the gossip ops in plain PyTorch: one rounding an operation, in the order that all twins keep."""

import torch

from fastsaddle.kernels._shared.bfloat16.reference import Random, keep
from fastsaddle.kernels._shared.philox.reference import MOMENTUM

# how a step treats its momentum row
NONE, LOCAL, QUASI_GLOBAL = 0, 1, 2

LIST_RULE = "every list of neighbors or sources must start with a row, name rows in 0..n-1, and end in -1 only"


def column(scalar: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A scalar argument as `[agents, 1]`: a 0-d divisor would be turned into a reciprocal by PyTorch."""
    return scalar.reshape(-1, 1).expand(rows.shape[0], 1)


def gated(norm: torch.Tensor | None, active: torch.Tensor | None) -> torch.Tensor | None:
    """The norms that tell who steps: those of agents that are not active become infinite or NaN."""
    if active is None:
        return norm
    if norm is None:
        norm = torch.ones_like(active, dtype=torch.float32)
    # a finite number divided by one is itself, by zero it is not finite
    return norm / active


def finite(norm: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Which agents step, as bool `[agents, 1]`: those whose gradient norm is finite, or all."""
    if norm is None:
        return torch.ones(rows.shape[0], 1, dtype=torch.bool, device=rows.device)
    return norm.isfinite()[:, None]


def local_rows(
    start: torch.Tensor,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    random: Random,
) -> torch.Tensor:
    """h = start - lr u `[agents, columns]` float32; local momentum is updated in place."""
    steps = finite(norm, start)
    lr, weight_decay, beta = (column(s, start) for s in (lr, weight_decay, beta))
    gradient = (-g if maximize else g) + weight_decay * start
    update = gradient
    if momentum is not None:
        wide = momentum.float()
        moved = beta * wide + gradient
        update = gradient + beta * moved if nesterov else moved
        if kind == LOCAL:
            keep(momentum, torch.where(steps, moved, wide), random, MOMENTUM)
    return torch.where(steps, start - lr * update, start)


def check_lists(neighbors: torch.Tensor) -> None:
    """Raise ValueError unless each list starts with an agent, names agents only, and ends in -1 only."""
    check_sources(neighbors, neighbors.shape[0])


def check_sources(sources: torch.Tensor, rows: int) -> None:
    """The same for lists that name any of `rows` rows."""
    named = sources >= 0
    if (
        not bool(named[:, 0].all())
        or bool((sources >= rows).any())
        or bool((named[:, 1:] & ~named[:, :-1]).any())
    ):
        raise ValueError(LIST_RULE)


def mix_rows(h: torch.Tensor, neighbors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum_k weights[:, k] h[neighbors[:, k]], summed in the list's order; -1 pads."""
    mixed = weights[:, :1] * h[neighbors[:, 0].long()]
    for k in range(1, neighbors.shape[1]):
        named = neighbors[:, k, None] >= 0
        term = weights[:, k, None] * h[neighbors[:, k].clamp(min=0).long()]
        mixed = torch.where(named, mixed + term, mixed)
    return mixed


def quasi_global_rows(
    before: torch.Tensor,
    after: torch.Tensor,
    momentum: torch.Tensor,
    lr: torch.Tensor,
    mu: torch.Tensor,
    norm: torch.Tensor | None,
    random: Random,
) -> None:
    """momentum = mu momentum + (1 - mu) (before - after) / lr, in place; unchanged where lr = 0."""
    wide = momentum.float()
    lr, mu = column(lr, before), column(mu, before)
    moved = mu * wide + (1.0 - mu) * ((before - after) / lr.expand_as(before))
    moved = torch.where(finite(norm, before) & (lr != 0), moved, wide)
    keep(momentum, moved, random, MOMENTUM)


def check_kind(kind: int, momentum: torch.Tensor | None) -> None:
    """`kind` is none, local or quasi-global, and comes with a momentum row unless it is none."""
    if kind not in (NONE, LOCAL, QUASI_GLOBAL):
        raise ValueError(f"kind must be 0 (none), 1 (local) or 2 (quasi-global), got {kind}")
    if (momentum is None) != (kind == NONE):
        raise ValueError(
            f"momentum rows belong to kinds 1 and 2, got kind {kind} with "
            f"{'no momentum' if momentum is None else 'momentum'}"
        )
