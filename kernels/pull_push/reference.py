"""pull_push in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import column

SMALL = 1e-12


def pull_push_reference(
    x: torch.Tensor,
    center: torch.Tensor,
    squared_distance: torch.Tensor,
    pull: torch.Tensor,
    push: torch.Tensor,
) -> None:
    distance = squared_distance.sqrt().float().clamp(min=SMALL)[:, None]
    factor = (1.0 - column(pull, x)) + column(push, x) / distance
    x.copy_(center + factor * (x - center))
