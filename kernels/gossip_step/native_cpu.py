"""gossip_step through the compiled CPU library."""

import torch

from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar, state

_symbol = function(
    "fs_gossip_step",
    [
        *[POINTER, INT] * 4,
        INT,
        *[POINTER] * 2,
        *[INT] * 3,
        *[POINTER, INT] * 4,
        POINTER,
        *[INT] * 4,
        POINTER,
        *[INT] * 2,
    ],
)


def launch(
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
    # kept by a name: the library is given its address only
    gate = gated(norm, active)
    call(
        _symbol,
        *rows(x),
        *rows(saved),
        *rows(g),
        *state(momentum),
        address(neighbors),
        address(weights),
        *x.shape,
        neighbors.shape[1],
        *scalar(lr),
        *scalar(weight_decay),
        *scalar(beta),
        *scalar(mu),
        address(gate),
        kind,
        nesterov,
        maximize,
        seed,
        *scalar(step),
        first_agent,
    )
