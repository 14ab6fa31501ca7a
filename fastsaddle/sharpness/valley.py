"""How wide the valley is in which the agents of a stack lie: how far from their mean the loss doubles."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack
from fastsaddle.sharpness.base import dot, moved, scaled
from fastsaddle.sharpness.objective import Loss, MeanLoss


@dataclass(frozen=True)
class MeanValley:
    """The widths that `mean_valley` measures, and their mean.

    Args:
        widths: float64 `[agents]` on the CPU, in the unit of the parameters.
    """

    widths: Tensor

    @property
    def mean(self) -> float:
        """The mean width. The larger it is, the flatter is the minimum."""
        return float(self.widths.mean())

    @property
    def negative(self) -> float:
        """The inverse mean valley as -mean. The larger it is, the sharper is the minimum."""
        return -self.mean

    @property
    def reciprocal(self) -> float:
        """The inverse mean valley as 1 / mean. The larger it is, the sharper is the minimum."""
        return 1 / self.mean


def mean_valley(
    stack: AgentStack,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    kappa: float = 2.0,
    nearest: float = 0.05,
    farthest: float = 1000.0,
    tolerance: float = 1e-3,
    center: nn.Module | None = None,
    batch_size: int = 500,
) -> MeanValley:
    """How far one can go from the agents' mean x_A toward each agent until the loss is kappa times that at x_A.

    With u_m = (x_m - x_A) / ||x_m - x_A||, the width of agent m is the smallest b > 0 with L(x_A + b u_m) = kappa
    L(x_A). Name and purpose are those of DPPF (arXiv:2507.20424), which takes the inverse as its measure of sharpness.
    The definition is ours: we do not know their kappa and line search, nor whether their inverse is -mean or 1 / mean,
    so both are given; they order runs alike.

    b is sought at `nearest`, then at twice the distance again and again, and finally by bisection where the loss first
    reached kappa L(x_A) (or was NaN). A loss that rises and falls back between two of these places goes unnoticed. A
    width is infinite if the loss does not reach the value up to `farthest`, and NaN for an agent that equals the mean
    and so has no direction; the mean is then the same. Agents that differ by rounding alone have random directions.

    Args:
        stack: the agents.
        loss: as for `mean_loss`.
        inputs: as for `mean_loss`.
        targets: as for `mean_loss`.
        kappa: factor of the loss, > 1.
        nearest: first distance, > 0, in the unit of the parameters.
        farthest: last distance, in the unit of the parameters.
        tolerance: relative tolerance of the widths, >= 1e-12.
        center: the model at x_A; None is `stack.consensus()`. It may have other buffers, or be the center that a method
            keeps. BatchNorm statistics and parameters that require no gradient are taken from it.
        batch_size: most samples in a batch.

    Raises:
        ValueError: kappa is not finite and > 1, distances are not finite with 0 < nearest <= farthest, the tolerance is
            below 1e-12, the center has other parameters or a loss that is not finite and > 0, or see `mean_loss`.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> from fastsaddle import sharpness
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4, init="independent")
        >>> inputs, targets = torch.ones(10, 3), torch.zeros(10, 1)
        >>> loss = torch.nn.functional.mse_loss
        >>> sharpness.mean_valley(stack, loss, inputs, targets).widths.shape
        torch.Size([4])
    """
    if not (kappa > 1 and math.isfinite(kappa)):
        raise ValueError(f"kappa must be finite and > 1, got {kappa}")
    if not (0 < nearest <= farthest < math.inf):
        raise ValueError(
            f"distances must be finite and 0 < nearest <= farthest, got {nearest} and {farthest}"
        )
    if not tolerance >= 1e-12:
        raise ValueError(f"tolerance must be >= 1e-12, got {tolerance}")
    agents = MeanLoss.of(stack, loss, inputs, targets, batch_size)
    center = stack.consensus() if center is None else center
    own = {name: tuple(p.shape[1:]) for name, p in stack.named_parameters()}
    given = {name: tuple(p.shape) for name, p in center.named_parameters()}
    if own != given:
        raise ValueError(f"center must have the agents' parameters {own}, got {given}")
    middle = MeanLoss.of(center, loss, inputs, targets, batch_size, agents.names)
    lowest = float(middle.measure(lambda part: part.values(part.x)))
    if not 0 < lowest < math.inf:
        raise ValueError(f"the loss at the agents' mean must be finite and > 0, got {lowest}")

    away = [p - c for p, c in zip(agents.x, middle.x, strict=True)]
    length = dot(away, away).sqrt()
    apart = length > 0
    widths = torch.full((stack.agents,), math.nan, dtype=torch.float64, device="cpu")
    if not apart.any():
        return MeanValley(widths)

    def width(part: MeanLoss) -> Tensor:
        def is_inside(which: Tensor, b: Tensor) -> Tensor:
            some = part.rows(which)
            return some.values(moved(middle.x, b, some.x)) < kappa * lowest

        return first_crossing(is_inside, part.agents, length.device, nearest, farthest, tolerance)

    # one copy of the center an agent, with the unit vectors in place of the parameters
    copies = middle.rows(torch.zeros_like(length, dtype=torch.long))
    units = scaled(away, 1 / length)
    lines = replace(copies, x=units, at_once=agents.at_once).rows(apart)
    widths[apart.cpu()] = lines.measure(width)
    return MeanValley(widths)


def first_crossing(
    is_inside: Callable[[Tensor, Tensor], Tensor],
    count: int,
    device: torch.device,
    nearest: float,
    farthest: float,
    tolerance: float,
) -> Tensor:
    """Where `count` functions first leave the inside, float64 `[count]`; infinity where not up to `farthest`.

    `is_inside` takes numbers of functions and a place for each. Places double from `nearest`, then bisection.
    """
    low = torch.zeros(count, dtype=torch.float64, device=device)
    high = torch.full_like(low, nearest)
    going = torch.arange(count, device=device)
    while len(going):
        going = going[is_inside(going, high[going])]
        low[going] = high[going]
        going = going[low[going] < farthest]
        high[going] = (2 * low[going]).clamp(max=farthest)
    found = low < farthest
    going = found.nonzero().flatten()
    while len(going := going[(high - low)[going] > tolerance * high[going]]):
        place = (low + high)[going] / 2
        inside = is_inside(going, place)
        low[going] = torch.where(inside, place, low[going])
        high[going] = torch.where(inside, high[going], place)
    return torch.where(found, (low + high) / 2, math.inf)
