"""Hyperparameters of parameter groups: what values they may have, and how steps read them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

LARGEST = torch.finfo(torch.float32).max
# entries of parameter groups that are no hyperparameters
TAKEN = ("params", "param_names")


def is_number(value: Any) -> bool:
    """Whether `value` is one real number, of Python or numpy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether `value` is one whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_many(value: Any) -> bool:
    """Whether a hyperparameter is a tensor of a number for each agent."""
    return isinstance(value, torch.Tensor) and value.numel() > 1


def differ(a: Any, b: Any) -> bool:
    """Whether two hyperparameters, numbers or tensors, differ."""
    found = a != b
    return bool(found.any()) if isinstance(found, torch.Tensor) else bool(found)


@dataclass(frozen=True)
class Range:
    """A number in the parameter groups, in [least, most), or in [least, most] if `closed`.

    Values are numbers, or tensors, 0-d or `[agents]` with one number for each agent. They are checked when an optimizer
    or a group is made, and by the next step if they were changed; tensors on a GPU are not checked then, because the
    step would have to wait for them.

    Args:
        least: lower bound.
        most: upper bound; `math.inf` excludes only infinity itself.
        default: value if the optimizer is given none. None: the entry may be None, and what that means is up to the
            rule.
        closed: whether `most` itself is allowed.

    Example:
        >>> import fastsaddle as fs
        >>> print(fs.rules.Range(0, 1, default=0.9))
        in [0, 1)
    """

    least: float
    most: float
    default: float | None = None
    closed: bool = False

    def check(self, name: str, value: Any, agents: int | None = None) -> None:
        """Raise an error unless a value is in range, and one number or one for each agent.

        Args:
            name: name of the entry, for the message.
            value: the value.
            agents: number of agents; None allows any.

        Raises:
            ValueError: it is not.
        """
        if value is None:
            if self.default is not None:
                raise ValueError(f"{name} must be {self}, got None")
            return
        if isinstance(value, torch.Tensor):
            if value.dtype == torch.bool or value.is_complex() or value.is_meta:
                raise ValueError(f"{name} must be {self}, got {value!r}")
            check_shape(name, value, agents)
            # nan is the least and the largest, where there is one
            ends = value.detach().aminmax() if value.numel() > 1 else (value.detach(),)
            if not all(self._holds(float(end)) for end in ends):
                raise ValueError(f"{name} must be {self}, got {value}")
        elif not is_number(value) or not self._holds(value):
            raise ValueError(f"{name} must be {self}, got {value!r}")

    def _holds(self, value: Any) -> bool:
        # nan fails all comparisons; a number that float32 cannot hold is infinite to a kernel
        is_below = value <= self.most if self.closed else value < self.most
        return bool(self.least <= value and is_below and abs(value) <= LARGEST)

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f">= {self.least:g} and finite"
        return f"in [{self.least:g}, {self.most:g}{']' if self.closed else ')'}"


@dataclass(frozen=True)
class Flag:
    """A yes or no in the parameter groups.

    Args:
        default: value if the optimizer is given none.
    """

    default: bool = False

    def check(self, name: str, value: Any, agents: int | None = None) -> None:
        """Raise an error unless a value is True, False or None, which counts as no.

        Args:
            name: name of the entry, for the message.
            value: the value.
            agents: not used.

        Raises:
            ValueError: it is something else.
        """
        if value is True or value is False:
            return
        if isinstance(value, torch.Tensor) or value not in (True, False, None):
            raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class Pair:
    """Two numbers in the parameter groups, each in [0, 1), such as Adam's betas.

    Args:
        default: value if the optimizer is given none.
    """

    default: tuple[float, float]

    def check(self, name: str, value: Any, agents: int | None = None) -> None:
        """Raise an error unless a value is two such numbers.

        Args:
            name: name of the entry, for the message.
            value: the value.
            agents: not used.

        Raises:
            ValueError: it is not.
        """
        if (
            not isinstance(value, Sequence)
            or len(value) != 2
            or not all(is_number(v) and 0 <= v < 1 for v in value)
        ):
            raise ValueError(f"{name} must be two numbers in [0, 1), got {value!r}")


Hyperparameter = Range | Flag | Pair

POSITIVE = Range(0, math.inf, default=0.0)
# entries of the groups of every optimizer
COMMON: Mapping[str, Hyperparameter] = {
    "lr": Range(0, math.inf, default=0.1),
    "weight_decay": POSITIVE,
    "maximize": Flag(),
}


MISSING = "{name} must be an entry of each parameter group, got none"


def check_group(
    group: Mapping[str, Any], allowed: Mapping[str, Hyperparameter], agents: int | None = None
) -> None:
    """Raise ValueError for an entry that is missing or out of range, and tensors neither 0-d nor `[agents]`."""
    for name, rule in allowed.items():
        if name not in group:
            raise ValueError(MISSING.format(name=name))
        rule.check(name, group[name], agents)


def check_shape(name: str, value: torch.Tensor, agents: int | None) -> None:
    """Raise ValueError unless `value` is one number, or one for each agent (for however many, where that is None)."""
    fits = value.dim() == 1 and len(value) if agents is None else value.shape == (agents,)
    if value.numel() != 1 and not fits:
        wanted = "[agents]" if agents is None else f"[agents] = ({agents},)"
        raise ValueError(f"{name} must be one number or {wanted}, got {tuple(value.shape)}")


def is_read(value: torch.Tensor) -> bool:
    """Whether steps read a tensor to check it: a GPU would have to be waited for."""
    return value.is_cpu


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
        """`name` of the group numbered `index`: float32, 0-d or `[agents]`; zero where such groups have none.

        Raises:
            ValueError: it is missing, out of range (tensors on a GPU are not read: it would be waited for), or a tensor
                that has neither one number nor one for each agent.
        """
        value = group.get(name)
        known = self._known.get((index, name))
        # the types first: True is 1, and tensors compare into tensors
        if known is not None and type(value) in (float, int) and known[0] == value:
            return known[1]
        rule = self.allowed.get(name)
        if isinstance(value, torch.Tensor) and (rule is None or not is_read(value)):
            check_shape(name, value, self.agents)
        elif rule is not None and name in group:
            rule.check(name, value, self.agents)
        elif rule is not None:
            raise ValueError(MISSING.format(name=name))
        if value is None:
            return self._zero
        if isinstance(value, torch.Tensor):
            value = value.detach().to(self._zero).contiguous()
            return value.reshape(()) if value.numel() == 1 else value
        tensor = torch.full_like(self._zero, value) if known is None else known[1].fill_(value)
        self._known[index, name] = (float(value), tensor)
        return tensor
