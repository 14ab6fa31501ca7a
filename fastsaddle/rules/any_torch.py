"""Any torch optimizer for the local steps: one for each agent, on that agent's rows of the flat buffers."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim.optimizer import ParamsT

from fastsaddle.optimizer.stacked_optimizer import StackedOptimizer


class LocalOptimizers:
    """One optimizer an agent, made by `make`, stepping the owner's parameters where they lie.

    Args:
        make: takes one agent's parameters, or groups of them where the owner has several.
        owner: whose learning rates are read, group by group, at every step.

    Raises:
        ValueError: `make` gives no torch optimizer, or one with other groups.
    """

    def __init__(
        self, make: Callable[[ParamsT], torch.optim.Optimizer], owner: StackedOptimizer
    ) -> None:
        self._owner = owner
        groups = [group["params"] for group in owner.param_groups]
        self.parameters = [
            [[Parameter(p.detach()[agent]) for p in group] for group in groups]
            for agent in range(owner.agents)
        ]
        self.optimizers = []
        for mine in self.parameters:
            given = mine[0] if len(mine) == 1 else [{"params": group} for group in mine]
            optimizer = make(given)
            if not isinstance(optimizer, torch.optim.Optimizer) or len(
                optimizer.param_groups
            ) != len(groups):
                raise ValueError(
                    f"local must make a torch optimizer with {len(groups)} parameter groups, got {optimizer!r}"
                )
            self.optimizers.append(optimizer)
        self.attach()

    def attach(self) -> None:
        """Point parameters and gradients at the owner's buffers, wherever those lie now."""
        theirs = [p for group in self._owner.param_groups for p in group["params"]]
        gradients = self._owner.rows.parts(self._owner.rows.g)
        for agent, groups in enumerate(self.parameters):
            mine = [p for group in groups for p in group]
            if [p.shape for p in mine] != [p.shape[1:] for p in theirs]:
                raise ValueError(
                    "parameters cannot be added to an optimizer with local optimizers of its own"
                )
            for p, stacked, gradient in zip(mine, theirs, gradients, strict=False):
                p.data = stacked.detach()[agent]
                p.grad = gradient[agent] if stacked.requires_grad else None

    def step(self, norm: torch.Tensor) -> None:
        """A step of every agent whose gradient norm, of `norm` `[agents]`, is finite."""
        self.attach()
        rates = [group["lr"] for group in self._owner.param_groups]
        for optimizer, finite in zip(self.optimizers, norm.isfinite().tolist(), strict=True):
            if finite:
                for group, lr in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = lr
                optimizer.step()

    def state_dicts(self) -> list[dict[str, Any]]:
        """What every agent's optimizer keeps."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Take over what `state_dicts` gave; ValueError for another number of agents."""
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"local states must be those of {len(self.optimizers)} agents, got {len(states)}"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
