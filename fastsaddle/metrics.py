"""What a run reports about its agents: the consensus model and the distance to it."""

import torch

from fastsaddle.kernels.consensus import consensus


def consensus_mean(x: torch.Tensor) -> torch.Tensor:
    """Mean over agents of `x` `[agents, stride]`, as `[stride]` float32."""
    return _consensus(x)[0]


def consensus_distance(x: torch.Tensor) -> float:
    """sqrt(mean_i ||x_i - mean||^2) of `x` `[agents, stride]` (Kong et al. 2021, arXiv:2102.04828)."""
    return float(_consensus(x)[1].mean().sqrt())


def _consensus(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.empty(x.shape[1], dtype=torch.float32, device=x.device)
    squared_distance = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    consensus(x, mean, squared_distance)
    return mean, squared_distance
