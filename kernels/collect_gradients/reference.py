"""collect_gradients in plain PyTorch."""

from collections.abc import Sequence

import torch

from fastsaddle.kernels._shared.squares.reference import slice_sums


def collect_gradients_reference(
    g: torch.Tensor,
    parts: Sequence[torch.Tensor],
    starts: Sequence[int],
    squares: torch.Tensor | None,
) -> None:
    for part, start in zip(parts, starts, strict=True):
        row = part.flatten(1) if part.dim() > 1 else part[:, None]
        g[:, start : start + row.shape[1]] = row
    if squares is not None:
        squares.copy_(slice_sums(g))
