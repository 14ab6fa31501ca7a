"""EvoNorm on blocks of samples in plain PyTorch: the specification."""

import torch
from torch import Tensor
from torch.nn import functional as F

# of a group `[..., group, channels, height, width, BLOCK]`: what one sample has
SAMPLE = (-4, -3, -2)


def _statistics(grouped: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance = grouped.var(dim=SAMPLE, correction=0)
    return grouped.mean(dim=SAMPLE), torch.rsqrt(variance + eps)


def _scaled(x: Tensor, weight: Tensor, inverses: Tensor) -> Tensor:
    grouped = x.unflatten(2, (inverses.shape[2], -1))
    normalized = F.hardswish(grouped) * inverses[..., None, None, None, :]
    return normalized.flatten(2, 3) * weight[:, None, :, None, None, None]


def forward_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    out: Tensor,
    means: Tensor,
    inverses: Tensor,
) -> None:
    found = _statistics(x.unflatten(2, (groups, -1)), eps)
    means.copy_(found[0])
    inverses.copy_(found[1])
    out.copy_(_scaled(x, weight, inverses) + bias[:, None, :, None, None, None])


def backward_reference(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    means: Tensor,
    inverses: Tensor,
    x_gradient: Tensor,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
) -> None:
    of = [t.detach().requires_grad_() for t in (x, weight, inverses)]
    with torch.enable_grad():
        for_x, for_weight, pull = torch.autograd.grad(_scaled(*of), of, gradient)
    grouped = x.unflatten(2, (means.shape[2], -1))
    apart = grouped - means[..., None, None, None, :]
    # d inverse / d x = -inverse^3 (x - mean) / numbers
    factor = -pull * inverses.pow(3) / grouped[0, 0, 0, ..., 0].numel()
    x_gradient.copy_(for_x + (apart * factor[..., None, None, None, :]).flatten(2, 3))
    if weight_gradient is not None:
        weight_gradient.copy_(for_weight)
    if bias_gradient is not None:
        bias_gradient.copy_(gradient.sum((1, 3, 4, 5)))
