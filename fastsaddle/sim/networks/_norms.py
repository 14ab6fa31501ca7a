"""Normalizations for images; those that look at one sample at a time let agents' models be averaged as they are."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# as in the public code of arXiv:2102.04761 and arXiv:2209.14390
GROUPS = 2


class EvoNormHardSwish(nn.Module):
    """EvoNorm-S0 with a hard gate, activation and normalization in one: x * hardsigmoid(x) / group deviation.

    Liu, Brock, Simonyan, Le 2020, arXiv:2004.02967, with its inner coefficient fixed to 1, 8 groups and the biased
    variance, as in the public code of Aketi, Kodge, Roy 2022 (Neighborhood Gradient Clustering, arXiv:2209.14390).

    Raises ValueError for channels that do not fall into 8 groups.
    """

    def __init__(self, channels: int, groups: int = 8, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = _whole_groups(channels, groups)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to the same shape."""
        grouped = x.unflatten(1, (self.groups, -1))
        variance = grouped.var(dim=(2, 3, 4), keepdim=True, correction=0)
        normalized = F.hardswish(grouped) / torch.sqrt(variance + self.eps)
        return normalized.flatten(1, 2) * self.weight + self.bias


class EvoNormSwish(nn.Module):
    """EvoNorm-S0 with the gate of its paper, activation and normalization in one: x * sigmoid(x) / group deviation.

    Liu, Brock, Simonyan, Le 2020, arXiv:2004.02967, with its inner coefficient fixed to 1, 32 groups (one a channel
    where there are fewer) and the unbiased variance, as in the public code of Lin, Karimireddy, Stich, Jaggi 2021
    (Quasi-Global Momentum, arXiv:2102.04761), which counts its constant eps among the parameters.

    Raises ValueError for channels that do not fall into 32 groups.
    """

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = _whole_groups(channels, min(groups, channels))
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to the same shape; a group needs two values or more."""
        grouped = x.unflatten(1, (self.groups, -1))
        variance = grouped.var(dim=(2, 3, 4), keepdim=True, correction=1)
        normalized = F.silu(grouped) / torch.sqrt(variance + self.eps)
        return normalized.flatten(1, 2) * self.weight + self.bias


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "evonorm": EvoNormHardSwish,
    "groupnorm": partial(nn.GroupNorm, GROUPS),
    "batchnorm": nn.BatchNorm2d,
}


def norm_layer(norm: str) -> Callable[[int], nn.Module]:
    """The layer, made from a number of channels, that an option names. Raises ValueError for an unknown name."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return NORMS[norm]


def _whole_groups(channels: int, groups: int) -> int:
    if channels % groups:
        raise ValueError(f"channels must be a multiple of the {groups} groups, got {channels}")
    return groups
