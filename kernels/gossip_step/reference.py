"""gossip_step in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import (
    QUASI_GLOBAL,
    check_lists,
    gated,
    local_rows,
    mix_rows,
    quasi_global_rows,
)


def gossip_step_reference(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    mu: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    check_lists(neighbors)
    start = x if saved is None else saved
    random, norm = (seed, step, first_agent), gated(norm, active)
    h = local_rows(
        start, g, momentum, lr, weight_decay, beta, norm, kind, nesterov, maximize, random
    )
    mixed = mix_rows(h, neighbors, weights)
    if momentum is not None and kind == QUASI_GLOBAL:
        quasi_global_rows(start, mixed, momentum, lr, mu, norm, random)
    x.copy_(mixed)
