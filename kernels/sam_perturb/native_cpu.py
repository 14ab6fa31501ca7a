"""sam_perturb through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar

_symbol = function("fs_sam_perturb", [*[POINTER, INT] * 4, POINTER, *[INT] * 5])


def launch(
    x: torch.Tensor,
    g: torch.Tensor,
    saved: torch.Tensor,
    rho: torch.Tensor,
    norm: torch.Tensor,
    adaptive: bool,
    maximize: bool,
    aside: bool = False,
) -> None:
    call(
        _symbol,
        *rows(x),
        *rows(g),
        *rows(saved),
        *scalar(rho),
        address(norm),
        *x.shape,
        adaptive,
        maximize,
        aside,
    )
