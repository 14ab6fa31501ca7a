"""mix_update in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import (
    check_sources,
    gated,
    mix_rows,
    quasi_global_rows,
)


def mix_update_reference(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    h: torch.Tensor,
    momentum: torch.Tensor | None,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    mu: torch.Tensor,
    norm: torch.Tensor | None,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    check_sources(neighbors, h.shape[0])
    mixed = mix_rows(h, neighbors, weights)
    if momentum is not None:
        start = x if saved is None else saved
        random, norm = (seed, step, first_agent), gated(norm, active)
        quasi_global_rows(start, mixed, momentum, lr, mu, norm, random)
    x.copy_(mixed)
