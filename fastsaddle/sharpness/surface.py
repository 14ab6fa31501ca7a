"""The loss around a model, along two random directions."""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.sharpness.base import drawn
from fastsaddle.sharpness.normalization import normalization_parameters
from fastsaddle.sharpness.objective import Loss, MeanLoss, Model


def loss_surface(
    model: Model,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    extent: float = 1.0,
    points: int = 21,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """The mean loss at x + a d + b e, for two random directions d and e normalized filter by filter.

    Li et al. 2018 (arXiv:1712.09913), section 4: normal draws, with each filter (a row of a matrix, an output channel
    of a convolution) scaled to the norm of the model's own; zero for biases (parameters of at most one dimension) and
    for the parameters of normalization layers (classes with "Norm" in their names). Filters of e are made orthogonal to
    those of d, which is our addition: the paper leaves it to chance. The draws depend only on the seed and on the
    shapes, so that models of one architecture are seen in the same directions, each on its own scale.

    Args:
        model: as for `mean_loss`.
        loss: as for `mean_loss`.
        inputs: as for `mean_loss`.
        targets: as for `mean_loss`.
        extent: a and b go from -extent to extent; at 1 a direction is as long as the model's filters.
        points: points on a side, odd and >= 3: the one in the middle is the model itself.
        seed: seed of the directions.
        batch_size: most samples in a batch.

    Returns:
        `[points, points]` float64 on the CPU, a by row and b by column; for a stack `[agents, points, points]`.

    Raises:
        ValueError: points is even or below 3, the extent is not > 0 and finite, or see `mean_loss`.

    Example:
        >>> import torch
        >>> from fastsaddle import sharpness
        >>> model = torch.nn.Linear(3, 1)
        >>> inputs, targets = torch.ones(10, 3), torch.zeros(10, 1)
        >>> loss = torch.nn.functional.mse_loss
        >>> sharpness.loss_surface(model, loss, inputs, targets, points=5).shape
        torch.Size([5, 5])
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points must be odd and >= 3, got {points}")
    if not (extent > 0 and math.isfinite(extent)):
        raise ValueError(f"extent must be finite and > 0, got {extent}")
    half = points // 2
    # whole numbers first: the one in the middle is then an exact zero
    places = [extent * k / half for k in range(-half, half + 1)]

    def surface(part: MeanLoss) -> Tensor:
        named = dict(zip(part.names, part.x, strict=True))
        d, e = directions(named, normalization_parameters(part.module), seed)
        losses = []
        for a in places:
            row = [p + a * q for p, q in zip(part.x, d, strict=True)]
            for b in places:
                losses.append(part.values([p + b * q for p, q in zip(row, e, strict=True)]))
        return torch.stack(losses, 1).unflatten(1, (points, points))

    found = MeanLoss.of(model, loss, inputs, targets, batch_size).measure(surface)
    return found if isinstance(model, AgentStack) else found[0]


def directions(
    parameters: Mapping[str, Tensor], fixed: Collection[str], seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Two directions of every agent, a tensor for each of `parameters` `[agents, *shape]`; zero for `fixed` ones."""
    generator = torch.Generator("cpu").manual_seed(seed)
    draws = [[drawn(p, generator) for p in parameters.values()] for _ in range(2)]
    d, e = [], []
    for (name, p), first, second in zip(parameters.items(), *draws, strict=True):
        if first.ndim < 2 or name in fixed:
            d.append(torch.zeros_like(p))
            e.append(torch.zeros_like(p))
            continue
        u, v = first.flatten(1), second.flatten(1)
        # a filter of one weight has no second direction
        if u.shape[1] > 1:
            v = v - (v * u).sum(1, keepdim=True) / u.square().sum(1, keepdim=True) * u
        lengths = p.flatten(2).norm(dim=2, keepdim=True)
        d.append((lengths * u / u.norm(dim=1, keepdim=True)).view_as(p))
        e.append((lengths * v / v.norm(dim=1, keepdim=True)).view_as(p))
    return d, e
