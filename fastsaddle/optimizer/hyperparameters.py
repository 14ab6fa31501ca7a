"""Hyperparameters of parameter groups: what values they may have, and how steps read them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Range:
    """A number in the parameter groups: [least, most), or [least, most] where that is `closed`.

    Values are numbers, or tensors, 0-d or `[agents]`, one for each agent. They are checked when an optimizer or a group
    is made, and numbers again when they are changed.

    Attributes:
        least, most: the bounds; `math.inf` bounds nothing but infinity itself.
        default: of an optimizer that names none; None: the entry may be None, and is then left to who reads it.
        closed: whether `most` itself is allowed.
    """

    least: float
    most: float
    default: float | None = None
    closed: bool = False

    def check(self, name: str, value: Any, agents: int | None = None) -> None:
        """Raise ValueError unless `value` is in range, and one number or one for each of `agents`."""
        if value is None:
            if self.default is not None:
                raise ValueError(f"{name} must be {self}, got None")
            return
        if isinstance(value, (int, float)):
            # nan fails both comparisons
            is_below = value <= self.most if self.closed else value < self.most
            if not (self.least <= value and is_below and math.isfinite(value)):
                raise ValueError(f"{name} must be {self}, got {value}")
            return
        values = torch.as_tensor(value, dtype=torch.float64)
        below = values <= self.most if self.closed else values < self.most
        if not bool(((values >= self.least) & below & values.isfinite()).all()):
            raise ValueError(f"{name} must be {self}, got {value}")
        if agents is not None:
            check_shape(name, values, agents)

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f">= {self.least:g} and finite"
        return f"in [{self.least:g}, {self.most:g}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class Flag:
    """A yes or no in the parameter groups."""

    default: bool = False

    def check(self, name: str, value: Any, agents: int | None = None) -> None:
        """Any value does: its truth counts."""


@dataclass(frozen=True)
class Pair:
    """Two numbers in the parameter groups, each in [0, 1), such as Adam's betas."""

    default: tuple[float, float]

    def check(self, name: str, value: Any, agents: int | None = None) -> None:
        """Raise ValueError unless `value` is two such numbers."""
        if (
            not isinstance(value, Sequence)
            or len(value) != 2
            or not all(isinstance(v, (int, float)) and 0 <= v < 1 for v in value)
        ):
            raise ValueError(f"{name} must be two numbers in [0, 1), got {value!r}")


Hyperparameter = Range | Flag | Pair

POSITIVE = Range(0, math.inf, default=0.0)
# entries of the groups of every optimizer
COMMON: Mapping[str, Hyperparameter] = {
    "lr": Range(0, math.inf, default=0.1),
    "weight_decay": POSITIVE,
}


def check_group(
    group: Mapping[str, Any], allowed: Mapping[str, Hyperparameter], agents: int | None = None
) -> None:
    """Raise ValueError for an entry out of range, or for tensors that are neither 0-d nor `[agents]`."""
    for name, rule in allowed.items():
        if name in group:
            rule.check(name, group[name], agents)


def check_shape(name: str, value: torch.Tensor, agents: int) -> None:
    """Raise ValueError unless `value` is one number, or one for each agent."""
    if value.numel() != 1 and value.shape != (agents,):
        raise ValueError(
            f"{name} must be one number or [agents] = ({agents},), got {tuple(value.shape)}"
        )


class Scalars:
    """Hyperparameters as tensors on a device; a plain number is checked, and written there, only when it changed.

    Args:
        agents: how many rows a tensor may have a number for.
        device: where tensors are wanted.
        allowed: what each entry may be.
    """

    def __init__(
        self, agents: int, device: torch.device, allowed: Mapping[str, Hyperparameter]
    ) -> None:
        self.agents, self.allowed = agents, allowed
        self._zero = torch.zeros((), dtype=torch.float32, device=device)
        self._known: dict[tuple[int, str], tuple[float, torch.Tensor]] = {}

    def read(self, group: Mapping[str, Any], index: int, name: str) -> torch.Tensor:
        """`name` of the group numbered `index`: float32, 0-d or `[agents]`; zero where the group has none.

        Raises:
            ValueError: a number out of range (tensors are not read: a GPU would be waited for), or a tensor that has
                neither one number nor one for each agent.
        """
        value = group.get(name)
        rule = self.allowed.get(name)
        if value is None:
            if rule is not None and name in group:
                rule.check(name, value)
            return self._zero
        if not isinstance(value, (int, float)):
            value = torch.as_tensor(value).detach()
            check_shape(name, value, self.agents)
            value = value.to(device=self._zero.device, dtype=torch.float32).contiguous()
            return value.reshape(()) if value.numel() == 1 else value
        known = self._known.get((index, name))
        if known is not None and known[0] == value:
            return known[1]
        if rule is not None:
            rule.check(name, value)
        tensor = torch.full_like(self._zero, value) if known is None else known[1].fill_(value)
        self._known[index, name] = (value, tensor)
        return tensor
