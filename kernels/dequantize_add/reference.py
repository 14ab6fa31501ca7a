"""dequantize_add in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.buckets.reference import check_table, decoded, is_element
from fastsaddle.kernels.arguments import per_agent


def dequantize_add_reference(
    codes: torch.Tensor | None,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    weight: torch.Tensor,
    out: torch.Tensor,
) -> None:
    check_table(buckets, out.shape[1], bucket)
    added = out + per_agent(weight) * decoded(codes, scales, signs, buckets, bits)
    out.copy_(torch.where(is_element(buckets), added, out))
