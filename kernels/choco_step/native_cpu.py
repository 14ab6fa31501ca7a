"""choco_step through the compiled CPU library."""

import torch

from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar, state

_symbol = function(
    "fs_choco_step",
    [
        *[POINTER, INT] * 4,
        INT,
        *[POINTER, INT],
        INT,
        *[POINTER] * 2,
        *[INT] * 3,
        POINTER,
        *[INT] * 2,
        *[POINTER, INT] * 5,
        POINTER,
        *[INT] * 6,
        POINTER,
        INT,
        INT,
        POINTER,
    ],
)


def launch(
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
    # kept by a name: the library is given its address only
    gate = gated(norm, active)
    call(
        _symbol,
        *rows(x),
        *rows(saved),
        *rows(g),
        *state(momentum),
        *state(x_hat),
        address(neighbors),
        address(weights),
        *x.shape,
        neighbors.shape[1],
        address(buckets),
        buckets.shape[0],
        bucket,
        *scalar(lr),
        *scalar(weight_decay),
        *scalar(beta),
        *scalar(mu),
        *scalar(gamma),
        address(gate),
        kind,
        nesterov,
        maximize,
        mix_first,
        levels,
        seed,
        *scalar(step),
        first_agent,
        address(squares),
    )
