"""Hyperparameters of parameter groups: checked when given, handed to ops as float32 tensors."""

from collections.abc import Mapping
from typing import Any

import torch

# those that must lie below one, and at most at one; all others are non-negative
BELOW_ONE, UP_TO_ONE = ("momentum", "qg_momentum"), ("pull",)
NUMBERS = ("lr", "weight_decay", "rho", "tracking", "eps", "push", *BELOW_ONE, *UP_TO_ONE)


def check_group(group: Mapping[str, Any], agents: int | None = None) -> None:
    """Raise ValueError for a number out of range, or for tensors that are neither 0-d nor `[agents]`."""
    for name in NUMBERS:
        value = group.get(name)
        if value is None:
            continue
        values = torch.as_tensor(value, dtype=torch.float64)
        below = values < 1 if name in BELOW_ONE else values <= 1 if name in UP_TO_ONE else True
        if not bool(((values >= 0) & values.isfinite() & below).all()):
            bound = ">= 0 and finite"
            if name in (*BELOW_ONE, *UP_TO_ONE):
                bound = "in [0, 1)" if name in BELOW_ONE else "in [0, 1]"
            raise ValueError(f"{name} must be {bound}, got {value}")
        if agents is not None:
            check_shape(name, values, agents)


def check_shape(name: str, value: torch.Tensor, agents: int) -> None:
    """Raise ValueError unless `value` is one number, or one for each agent."""
    if value.numel() != 1 and value.shape != (agents,):
        raise ValueError(
            f"{name} must be one number or [agents] = ({agents},), got {tuple(value.shape)}"
        )


class Scalars:
    """Hyperparameters as tensors on a device; a plain number is written there only when it changed."""

    def __init__(self, agents: int, device: torch.device) -> None:
        self.agents = agents
        self._zero = torch.zeros((), dtype=torch.float32, device=device)
        self._known: dict[tuple[int, str], tuple[float, torch.Tensor]] = {}

    def read(self, group: Mapping[str, Any], index: int, name: str) -> torch.Tensor:
        """`name` of the group numbered `index`: float32, 0-d or `[agents]`; zero where the group has none.

        Raises:
            ValueError: neither one number nor one for each agent.
        """
        value = group.get(name)
        if value is None:
            return self._zero
        if not isinstance(value, (int, float)):
            value = torch.as_tensor(value).detach()
            check_shape(name, value, self.agents)
            value = value.to(device=self._zero.device, dtype=torch.float32).contiguous()
            return value.reshape(()) if value.numel() == 1 else value
        known = self._known.get((index, name))
        if known is None:
            known = (value, torch.full_like(self._zero, value))
        elif known[0] != value:
            known = (value, known[1].fill_(value))
        self._known[index, name] = known
        return known[1]
