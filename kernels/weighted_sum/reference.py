"""weighted_sum in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import check_sources, mix_rows


def weighted_sum_reference(
    rows: torch.Tensor, out: torch.Tensor, sources: torch.Tensor, weights: torch.Tensor
) -> None:
    check_sources(sources, rows.shape[0])
    out.copy_(mix_rows(rows, sources, weights))
