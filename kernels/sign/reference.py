"""sign in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.buckets.reference import bucket_of, check_table, packed


def sign_reference(
    x: torch.Tensor, buckets: torch.Tensor, bucket: int, signs: torch.Tensor, scales: torch.Tensor
) -> None:
    check_table(buckets, x.shape[1], bucket)
    sums = torch.zeros(scales.shape, dtype=torch.float64, device=x.device)
    sums.scatter_add_(1, bucket_of(buckets).expand(x.shape), x.double().abs())
    signs.copy_(packed((x < 0).int(), 1))
    scales.copy_(sums / buckets[:, 1])
