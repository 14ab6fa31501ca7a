"""consensus in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.distances.reference import squared_distances


def consensus_reference(
    x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor
) -> None:
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for row in x:
        total += row
    mean.copy_(total / torch.full_like(total, x.shape[0]))
    squared_distance.copy_(squared_distances(x, mean))
