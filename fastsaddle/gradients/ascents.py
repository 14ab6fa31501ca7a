"""Ways to come by a SAM gradient: the full one, and those that save part of the second pass."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fastsaddle.comm.period import check_steps
from fastsaddle.optimizer.hyperparameters import Range, is_number


@dataclass(frozen=True)
class Ascent:
    """A way to come by a SAM gradient: base of the classes below.

    Attributes:
        counts: whether it draws or counts by the steps done.
        ascends_along_momentum: whether it perturbs along the momentum buffer, not along a gradient.
    """

    counts: ClassVar[bool] = False
    ascends_along_momentum: ClassVar[bool] = False


@dataclass(frozen=True)
class FullSAM(Ascent):
    """The gradient at x + rho g / ||g||, every step: two passes (Foret et al. 2020, arXiv:2010.01412)."""


@dataclass(frozen=True)
class LookSAM(Ascent):
    """A full SAM gradient every `period` steps, reused in between: 1 + 1 / period passes a step instead of 2.

        full step:  v = gs - (<g, gs> / ||g||^2) g, kept as v / ||v||
        others:     g + strength ||g|| v

    Between full steps the part v of the SAM gradient gs across the gradient g is reused. Liu et al. 2022
    (arXiv:2203.02714), equations 6 and 7, in the whole-model form of the code of arXiv:2401.12033.

    Args:
        period: steps from one full step to the next, >= 1.
        strength: alpha, >= 0 and finite; public code has 0.7 and 0.2.

    Raises:
        ValueError: period is not a whole number >= 1, or strength is out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fs.DSADDLe(model.parameters(), lr=0.1, sam=fs.LookSAM(period=4))
        >>> optimizer.evaluations
        1.25
    """

    counts: ClassVar[bool] = True
    period: int = 5
    strength: float = 0.7

    def __post_init__(self) -> None:
        check_steps("period", self.period)
        Range(0, math.inf, default=0.7).check("strength", self.strength)


@dataclass(frozen=True)
class MomentumSAM(Ascent):
    """The gradient at x - rho v / ||v||, where v is the momentum buffer: one pass a step instead of 2.

    Becker et al. 2024 (arXiv:2401.12033) and the authors' code, whose perturbation goes along minus momentum. They have
    one model with its own momentum; using the quasi-global buffer in its place is our extension. A suitable rho is
    larger than SAM's: 3 in their commands. While the buffer is still zero, nothing is perturbed. Weight decay acts at
    x; in their code it acts at the perturbed model.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=3.0, sam=fs.MomentumSAM())
        >>> optimizer.evaluations
        1
    """

    ascends_along_momentum: ClassVar[bool] = True


@dataclass(frozen=True)
class ESAM(Ascent):
    """Efficient SAM: perturb a random part of the weights, and take the second gradient on a part of the samples.

    Each tensor of each agent is perturbed with probability `weights`, by a radius of rho / weights. The second pass
    should keep the samples whose loss grew most: the closure chooses them with `fs.sharpest`, as `fastsaddle train`
    does. Du et al. 2021 (arXiv:2110.03141), algorithm 1 and the authors' code.

    Args:
        weights: beta, in (0, 1], the probability that a tensor is perturbed.
        samples: gamma, in (0, 1], the share of a batch that the second pass keeps; read by whoever writes the closure.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fs.DSADDLe(model.parameters(), lr=0.1, sam=fs.ESAM(weights=0.6))
        >>> optimizer.gradient.sam
        ESAM(weights=0.6, samples=0.5)
    """

    counts: ClassVar[bool] = True
    weights: float = 0.6
    samples: float = 0.5

    def __post_init__(self) -> None:
        for name in ("weights", "samples"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value!r}")


def sharpest(before: torch.Tensor, after: torch.Tensor, fraction: float) -> torch.Tensor:
    """Indices of the samples whose loss grew most under the perturbation, ascending.

    Args:
        before: losses at the model, `[..., samples]`.
        after: losses at the perturbed model, shaped alike.
        fraction: share of the samples to keep, in (0, 1]; at least one is kept.

    Returns:
        int64 `[..., k]`.

    Raises:
        ValueError: the shapes differ, or the fraction is out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> fs.sharpest(torch.zeros(4), torch.tensor([0.1, 0.4, 0.2, 0.3]), fraction=0.5)
        tensor([1, 3])
    """
    if before.shape != after.shape or not before.ndim:
        raise ValueError(
            f"losses must be shaped alike, got {tuple(before.shape)} and {tuple(after.shape)}"
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction!r}")
    k = max(1, int(fraction * before.shape[-1]))
    return (after - before).topk(k, dim=-1).indices.sort(dim=-1).values
