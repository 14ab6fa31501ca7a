"""choco_encode in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.bfloat16.reference import keep
from fastsaddle.kernels._shared.buckets.reference import (
    MAX,
    check_table,
    quantized,
    values_of,
    write_codes,
)
from fastsaddle.kernels._shared.philox.reference import COPIES
from fastsaddle.kernels._shared.step.reference import gated, local_rows


def choco_encode_reference(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor | None,
    momentum: torch.Tensor | None,
    h: torch.Tensor | None,
    x_hat: torch.Tensor,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    moves: bool,
    levels: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    codes: torch.Tensor,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
    squares: torch.Tensor,
    active: torch.Tensor | None = None,
) -> None:
    check_table(buckets, x.shape[1], bucket)
    random, model = (seed, step, first_agent), x
    if g is not None and h is not None:
        start, norm = x if saved is None else saved, gated(norm, active)
        rates = (lr, weight_decay, beta)
        model = local_rows(start, g, momentum, *rates, norm, kind, nesterov, maximize, random)
        h.copy_(model)
    copies = x_hat.float()
    t = model - copies
    magnitudes, scale = quantized(t, buckets, levels, MAX, *random)
    write_codes(t, magnitudes, bits, codes, signs)
    scales.copy_(scale)
    value = values_of(t, magnitudes, scale, buckets)
    squares[:, 0] = t.double().square().sum(1)
    squares[:, 1] = (value - t).double().square().sum(1)
    if moves:
        keep(x_hat, copies + value, random, COPIES)
