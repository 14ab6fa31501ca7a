"""local_step in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.step.reference import gated, local_rows


def local_step_reference(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    g: torch.Tensor,
    momentum: torch.Tensor | None,
    h: torch.Tensor,
    lr: torch.Tensor,
    weight_decay: torch.Tensor,
    beta: torch.Tensor,
    norm: torch.Tensor | None,
    kind: int,
    nesterov: bool,
    maximize: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    start = x if saved is None else saved
    random, norm = (seed, step, first_agent), gated(norm, active)
    h.copy_(
        local_rows(
            start, g, momentum, lr, weight_decay, beta, norm, kind, nesterov, maximize, random
        )
    )
