"""Squared distances of rows to one row in plain PyTorch."""

import torch

LANES = 32


def squared_distances(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """`[agents]` float64, each row's in an order that other rows and threads have no part in."""
    squares = (x.double() - mean.double()).square()
    # a single row summed at once would be dealt out to threads
    return squares.unflatten(1, (-1, LANES)).sum(1).sum(1)
