"""quantize in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.buckets.reference import check_table, quantized, write_codes


def quantize_reference(
    x: torch.Tensor,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    levels: int,
    norm: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    codes: torch.Tensor,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
) -> None:
    check_table(buckets, x.shape[1], bucket)
    magnitudes, scale = quantized(x, buckets, levels, norm, seed, step, first_agent)
    write_codes(x, magnitudes, bits, codes, signs)
    scales.copy_(scale)
