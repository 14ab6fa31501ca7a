"""local_step through the compiled CPU library."""

import torch

from fastsaddle.kernels._native import INT, POINTER, address, call, function, rows, scalar

_symbol = function(
    "fs_local_step",
    [*[POINTER, INT] * 5, INT, INT, *[POINTER, INT] * 3, POINTER, INT, INT, INT],
)


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
) -> None:
    call(
        _symbol,
        *rows(x),
        *rows(saved),
        *rows(g),
        *rows(momentum),
        *rows(h),
        *x.shape,
        *scalar(lr),
        *scalar(weight_decay),
        *scalar(beta),
        address(norm),
        kind,
        nesterov,
        maximize,
    )
