"""mix_neighbors in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import check_sources, mix_rows


def mix_neighbors_reference(
    x: torch.Tensor, out: torch.Tensor, neighbors: torch.Tensor, weights: torch.Tensor
) -> None:
    check_sources(neighbors, x.shape[0])
    out.copy_(mix_rows(x, neighbors, weights))
