"""choco_step in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.bfloat16.reference import keep
from fastsaddle.kernels._shared.buckets.reference import MAX, check_table, quantized, values_of
from fastsaddle.kernels._shared.philox.reference import COPIES
from fastsaddle.kernels._shared.step.reference import (
    QUASI_GLOBAL,
    check_lists,
    gated,
    local_rows,
    mix_rows,
    quasi_global_rows,
)
from fastsaddle.kernels.arguments import per_agent


def choco_step_reference(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    x_hat: torch.Tensor,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    buckets: torch.Tensor,
    bucket: int,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    mu: torch.Tensor,
    gamma: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    mix_first: bool,
    levels: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    squares: torch.Tensor,
    active: torch.Tensor | None = None,
) -> None:
    check_lists(neighbors)
    check_table(buckets, x.shape[1], bucket)

    random, norm = (seed, step, first_agent), gated(norm, active)

    def publish(model: torch.Tensor) -> None:
        copies = x_hat.float()
        t = model - copies
        magnitudes, scale = quantized(t, buckets, levels, MAX, seed, step, first_agent)
        value = values_of(t, magnitudes, scale, buckets)
        squares[:, 0] = t.double().square().sum(1)
        squares[:, 1] = (value - t).double().square().sum(1)
        keep(x_hat, copies + value, random, COPIES)

    start = x if saved is None else saved
    h = local_rows(
        start, g, momentum, lr, weight_decay, beta, norm, kind, nesterov, maximize, random
    )
    if not mix_first:
        publish(h)
    copies = x_hat.float()
    mixed = h + per_agent(gamma) * (mix_rows(copies, neighbors, weights) - copies)
    if mix_first:
        publish(mixed)
    if momentum is not None and kind == QUASI_GLOBAL:
        quasi_global_rows(start, mixed, momentum, lr, mu, norm, random)
    x.copy_(mixed)
