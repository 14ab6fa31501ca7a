"""mix_update through the compiled CPU library."""

import torch

from fastsaddle.kernels._shared.step.reference import gated
from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar, state

_symbol = function(
    "fs_mix_update",
    [
        *[POINTER, INT] * 3,
        INT,
        *[POINTER, INT],
        INT,
        *[POINTER] * 2,
        *[INT] * 3,
        *[POINTER, INT] * 2,
        POINTER,
        INT,
        POINTER,
        *[INT] * 2,
    ],
)


def launch(
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
    # kept by a name: the library is given its address only
    gate = gated(norm, active)
    call(
        _symbol,
        *rows(x),
        *rows(saved),
        *rows(h),
        h.shape[0],
        *state(momentum),
        address(neighbors),
        address(weights),
        *x.shape,
        neighbors.shape[1],
        *scalar(lr),
        *scalar(mu),
        address(gate),
        seed,
        *scalar(step),
        first_agent,
    )
