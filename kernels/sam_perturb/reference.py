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
    aside: bool = False,
) -> None:
    scale = column(rho, x) / column(norm + 1e-12, x)
    scale = -scale if maximize else scale
    direction = (x * x) * g if adaptive else g
    moved = torch.where(finite(norm, x), x + scale * direction, x)
    saved.copy_(moved if aside else x)
    if not aside:
        x.copy_(moved)
