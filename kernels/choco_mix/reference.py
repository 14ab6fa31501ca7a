"""choco_mix in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import (
    check_sources,
    gated,
    mix_rows,
    quasi_global_rows,
)
from fastsaddle.kernels.arguments import per_agent


def choco_mix_reference(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    h: torch.Tensor,
    momentum: torch.Tensor | None,
    x_hat: torch.Tensor,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    mu: torch.Tensor,
    gamma: torch.Tensor,
    norm: torch.Tensor | None,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    check_sources(neighbors, x_hat.shape[0])
    copies = x_hat.float()
    pull = mix_rows(copies, neighbors, weights) - copies[: x.shape[0]]
    mixed = h + per_agent(gamma) * pull
    if momentum is not None:
        start = x if saved is None else saved
        random, norm = (seed, step, first_agent), gated(norm, active)
        quasi_global_rows(start, mixed, momentum, lr, mu, norm, random)
    x.copy_(mixed)
