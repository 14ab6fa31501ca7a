"""What a run reports about its agents: the consensus model and the distance to it."""

import torch

from fastsaddle.kernels.consensus import consensus

__all__ = ["consensus_distance", "consensus_mean"]


def consensus_mean(x: torch.Tensor) -> torch.Tensor:
    """The mean of the agents' rows.

    Args:
        x: `[agents, stride]` float32, such as `AgentStack.x`.

    Returns:
        `[stride]` float32.

    Example:
        >>> import torch
        >>> from fastsaddle import metrics
        >>> x = torch.zeros(4, 64)
        >>> x[0] = 2
        >>> metrics.consensus_mean(x)[:3]
        tensor([0.5000, 0.5000, 0.5000])
    """
    return _consensus(x)[0]


def consensus_distance(x: torch.Tensor) -> float:
    """The root mean square distance of the agents to their mean: sqrt(mean_i ||x_i - mean||^2).

    Kong et al. 2021 (arXiv:2102.04828).

    Args:
        x: `[agents, stride]` float32, such as `AgentStack.x`.

    Example:
        >>> import torch
        >>> from fastsaddle import metrics
        >>> x = torch.zeros(4, 64)
        >>> x[0] = 2
        >>> round(metrics.consensus_distance(x), 4)
        6.9282
    """
    return float(_consensus(x)[1].mean().sqrt())


def _consensus(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.empty(x.shape[1], dtype=torch.float32, device=x.device)
    squared_distance = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    consensus(x, mean, squared_distance)
    return mean, squared_distance
