"""SAM's sharpness: how much the loss rises along its own gradient."""

import math

import torch
from torch import Tensor

from fastsaddle.sharpness.base import dot, measure, moved
from fastsaddle.sharpness.objective import Loss, MeanLoss, Model


@measure
def sam_sharpness(
    model: Model,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    rho: float = 0.05,
    batch_size: int = 500,
) -> Tensor:
    """L(x + rho g / ||g||) - L(x), g being the gradient at x and its norm one over all parameters of a model.

    Foret et al. 2020, arXiv:2010.01412: the bracket of section 2 with the first-order maximizer of equation 2 (p = 2).
    0 where the gradient is zero.

    Args:
        model, loss, inputs, targets, batch_size: as for `mean_loss`.
        rho: radius of the neighborhood, in the unit of the parameters.

    Raises:
        ValueError: rho is negative or not finite, or see `mean_loss`.
    """
    if not (rho >= 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be finite and >= 0, got {rho}")

    def rise(part: MeanLoss) -> Tensor:
        g = part.gradients()
        norm = dot(g, g).sqrt()
        ascended = moved(part.x, torch.where(norm == 0, 0, rho / norm), g)
        return part.values(ascended) - part.values(part.x)

    return MeanLoss.of(model, loss, inputs, targets, batch_size).measure(rise)
