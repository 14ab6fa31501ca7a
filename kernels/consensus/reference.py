"""consensus in plain PyTorch."""

import torch


def consensus_reference(
    x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor
) -> None:
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for row in x:
        total += row
    mean.copy_(total / torch.full_like(total, x.shape[0]))
    squared_distance.copy_((x.double() - mean.double()).square().sum(dim=1))
