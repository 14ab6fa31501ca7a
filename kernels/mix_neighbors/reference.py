"""mix_neighbors in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import check_lists, mix_rows


def mix_neighbors_reference(
    x: torch.Tensor, out: torch.Tensor, neighbors: torch.Tensor, weights: torch.Tensor
) -> None:
    check_lists(neighbors)
    out.copy_(mix_rows(x, neighbors, weights))
