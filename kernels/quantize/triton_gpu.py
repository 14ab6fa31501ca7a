"""quantize in Triton: the quantizer's kernel without a residual."""

import torch

from fastsaddle.kernels._shared.buckets.quantize_triton import launch_quantize


def launch(
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
    launch_quantize(
        x, None, buckets, bucket, bits, levels, norm, seed, step, first_agent, codes, scales, signs
    )
