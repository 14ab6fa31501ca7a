"""agent_norm in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.squares.reference import slice_sums, told_norm


def agent_norm_reference(
    g: torch.Tensor,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    norm: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    values = g if scale is None else g * scale
    sums = slice_sums(values).sum(dim=1)
    norm.copy_(told_norm(sums.sqrt().float(), gate, skipped))
