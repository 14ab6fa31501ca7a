"""What an optimizer tells of all agents together, wherever they are: their rows, and the mean of their models."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.state import MODELS

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer


@torch.no_grad()
def gathered_rows(optimizer: Optimizer, name: str) -> torch.Tensor:
    """All agents' rows of a buffer, see `Optimizer.gathered`."""
    optimizer.follow()
    if name == MODELS:
        rows = optimizer.rows.models()
    else:
        own = {s.name: s for s in optimizer.states if s.rows != "one" and s.width != "group"}
        if name not in own:
            raise ValueError(
                f'name must be "{MODELS}" or that of a state that each agent has, '
                f"got {name!r}, agents have {', '.join(own) or 'none'}"
            )
        scalar = own[name].is_per_agent
        rows = optimizer.scalar_state[name].T if scalar else optimizer.flat_state[name]
    # behind them may lie copies of agents elsewhere
    return optimizer.communicator.rows_of_all(rows[: optimizer.agents])


@torch.no_grad()
def consensus_of(optimizer: Optimizer, module: torch.nn.Module) -> torch.nn.Module:
    """The mean of all agents' models as a plain module, see `Optimizer.consensus`."""
    if optimizer.agents > 1 or not isinstance(module, torch.nn.Module):
        raise ValueError(
            "module must be the one of the one agent here (a stack has stack.consensus()), "
            f"got {type(module).__name__} and {optimizer.agents} agents"
        )
    if isinstance(module, DistributedDataParallel):
        module = module.module
    optimizer.follow()
    rows, communicator, center = optimizer.rows, optimizer.communicator, optimizer.center
    models = dict(zip(rows.parameters, rows.parts(rows.models()), strict=True))
    given = list(module.parameters())
    if not any(p in models for p in given):
        raise ValueError(
            "module must be the one whose parameters this optimizer moves, got one that has none of them"
        )
    layout = FlatLayout.pack([[p.shape for p in given]])
    values = layout.allocate(1, rows.x.device)
    for value, p in zip(layout.views(values), given, strict=True):
        value.copy_(models.get(p, p))
    # elementwise: the bits do not depend on how the numbers lie
    mean = communicator.mean(values)[0]
    means = dict(zip(given, layout.views(mean[None]), strict=True))
    if center is not None:
        means |= dict(zip(rows.parameters, rows.parts(center[None]), strict=True))
    buffers = [communicator.rows_of_all(b[None]) for b in module.buffers()]
    averaged = deepcopy(module)
    for p, its in zip(averaged.parameters(), given, strict=True):
        p.copy_(means[its].view_as(p))
    for b, everybody in zip(averaged.buffers(), buffers, strict=True):
        b.copy_(everybody.mean(0) if b.is_floating_point() else everybody[0])
    return averaged
