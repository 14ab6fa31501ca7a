"""local_step in Triton: one program takes 1024 columns of one agent."""

import torch

from fastsaddle.kernels._shared.step.gossip_triton import launch_local_step
from fastsaddle.kernels._shared.step.reference import gated


def launch(
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
    launch_local_step(
        *(start, g, momentum, h, lr, weight_decay, beta, gated(norm, active)),
        *(kind, nesterov, maximize),
        *(seed, step, first_agent),
    )
