"""distance in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.distances.reference import squared_distances


def distance_reference(x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
    squared_distance.copy_(squared_distances(x, mean))
