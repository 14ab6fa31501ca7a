"""compress_ef in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.buckets.reference import (
    check_table,
    quantized,
    values_of,
    write_codes,
)


def compress_ef_reference(
    x: torch.Tensor,
    residual: torch.Tensor,
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
    v = x + residual
    magnitudes, scale = quantized(v, buckets, levels, norm, seed, step, first_agent)
    write_codes(v, magnitudes, bits, codes, signs)
    scales.copy_(scale)
    residual.copy_(v - values_of(v, magnitudes, scale, buckets))
