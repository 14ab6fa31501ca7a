"""Gradients of stacked perceptrons in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsaddle.kernels._shared.squares.reference import slice_sums
from fastsaddle.kernels.arguments import LAYER_RULE


def part(rows: Tensor, first: int, *shape: int) -> Tensor:
    """The columns of `rows` from `first` on that hold a tensor of this shape, `[agents, *shape]`."""
    size = torch.Size(shape)
    return rows[:, first : first + size.numel()].unflatten(1, size)


def check_places(layers: list[list[int]], features: int, columns: int) -> None:
    """Raise ValueError unless layers take what the ones before give, and lie within the rows."""
    for wide, narrow, weight, bias, _ in layers:
        ends = weight + narrow * wide, bias + narrow
        if wide != features or narrow < 1 or weight < 0 or bias < -1 or max(ends) > columns:
            raise ValueError(LAYER_RULE)
        features = narrow


def stacked_perceptron_reference(
    inputs: Tensor,
    labels: Tensor,
    models: Tensor,
    gradients: Tensor,
    losses: Tensor,
    layers: Tensor,
    squares: Tensor | None = None,
) -> None:
    steps = layers.tolist()
    check_places(steps, inputs.shape[2], models.shape[1])
    passed, h = [], inputs
    for wide, narrow, weight, bias, relu in steps:
        passed.append(h)
        h = h @ part(models, weight, narrow, wide).mT
        h = h if bias < 0 else h + part(models, bias, 1, narrow)
        h = h.relu() if relu else h
    logs = F.log_softmax(h, -1)
    right = labels[..., None]
    found = -logs.gather(-1, right)[..., 0].mean(1)
    gradient = logs.exp().scatter_add_(-1, right, -torch.ones_like(logs[..., :1]))
    gradient /= labels.shape[1]
    for (wide, narrow, weight, bias, _), x, below in zip(
        reversed(steps), reversed(passed), (*reversed(steps[:-1]), None), strict=True
    ):
        part(gradients, weight, narrow, wide).copy_(gradient.mT @ x)
        if bias >= 0:
            part(gradients, bias, narrow).copy_(gradient.sum(1))
        if below is not None:
            gradient = gradient @ part(models, weight, narrow, wide)
            gradient = torch.where(x <= 0, 0.0, gradient) if below[-1] else gradient
    losses.copy_(found)
    if squares is not None:
        squares.copy_(slice_sums(gradients))
