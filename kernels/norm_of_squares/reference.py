"""norm_of_squares in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.squares.reference import told_norm


def norm_of_squares_reference(
    squares: torch.Tensor, gate: torch.Tensor | None, norm: torch.Tensor, skipped: torch.Tensor
) -> None:
    norm.copy_(told_norm(squares.sum(dim=1).sqrt().float(), gate, skipped))
