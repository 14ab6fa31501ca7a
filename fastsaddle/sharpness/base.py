"""What measures share: arithmetic on all parameters of each agent, and the type of their results."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, cast, overload

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack
from fastsaddle.sharpness.objective import Model

P = ParamSpec("P")


def drawn(p: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers for each agent's shape of `p` `[agents, *shape]`, on its device.

    Drawn on the CPU in float32, where a seed's are the same for every device and default dtype.
    """
    return torch.randn(p.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(p)


def dot(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Each agent's inner product over all parameters, float64 `[agents]`."""
    pairs = zip(first, second, strict=True)
    return torch.stack([(a.double() * b.double()).flatten(1).sum(1) for a, b in pairs]).sum(0)


def scaled(d: list[Tensor], factor: Tensor) -> list[Tensor]:
    """Each agent's vector times its own factor `[agents]`."""
    return [factor.to(q).view(-1, *[1] * (q.ndim - 1)) * q for q in d]


def moved(x: list[Tensor], step: Tensor, d: list[Tensor]) -> list[Tensor]:
    """x + step d, each agent by its own step `[agents]`."""
    return [p + q for p, q in zip(x, scaled(d, step), strict=True)]


class Measure(Protocol[P]):
    """A measure's two types."""

    @overload
    def __call__(self, model: nn.Module, /, *args: P.args, **kwargs: P.kwargs) -> float: ...
    @overload
    def __call__(self, model: AgentStack, /, *args: P.args, **kwargs: P.kwargs) -> Tensor: ...


def measure(function: Callable[Concatenate[Model, P], Tensor]) -> Measure[P]:
    """A function that gives a tensor `[agents]`, for a module as a float."""

    @functools.wraps(function)
    def measured(model: Model, *args: P.args, **kwargs: P.kwargs) -> float | Tensor:
        found = function(model, *args, **kwargs)
        return found if isinstance(model, AgentStack) else found.item()

    return cast(Measure[P], measured)
