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
    """How much the loss rises along its own gradient g: L(x + rho g / ||g||) - L(x).

    Foret et al. 2020 (arXiv:2010.01412): the bracket of section 2 with the first-order maximizer of equation 2 (p = 2).
    The norm is one over all parameters of a model. It is 0 where the gradient is zero.

    Args:
        model: as for `mean_loss`.
        loss: as for `mean_loss`.
        inputs: as for `mean_loss`.
        targets: as for `mean_loss`.
        rho: radius of the neighborhood, >= 0, in the unit of the parameters.
        batch_size: most samples in a batch.

    Returns:
        A float for a module, float64 `[agents]` on the CPU for a stack.

    Raises:
        ValueError: rho is negative or not finite, or see `mean_loss`.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> from fastsaddle import sharpness
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> inputs, targets = torch.ones(10, 3), torch.zeros(10, 1)
        >>> loss = torch.nn.functional.mse_loss
        >>> sharpness.sam_sharpness(stack, loss, inputs, targets, rho=0.05).shape
        torch.Size([4])
    """
    if not (rho >= 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be finite and >= 0, got {rho}")

    def rise(part: MeanLoss) -> Tensor:
        g = part.gradients()
        norm = dot(g, g).sqrt()
        ascended = moved(part.x, torch.where(norm == 0, 0, rho / norm), g)
        return part.values(ascended) - part.values(part.x)

    return MeanLoss.of(model, loss, inputs, targets, batch_size).measure(rise)
