"""sam_perturb in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import column, finite


def sam_perturb_reference(
    x: torch.Tensor,
    g: torch.Tensor,
    saved: torch.Tensor,
    rho: torch.Tensor,
    norm: torch.Tensor,
    adaptive: bool,
    maximize: bool,
) -> None:
    scale = column(rho, x) / column(norm + 1e-12, x)
    scale = -scale if maximize else scale
    direction = (x * x) * g if adaptive else g
    saved.copy_(x)
    x.copy_(torch.where(finite(norm, x), x + scale * direction, x))
