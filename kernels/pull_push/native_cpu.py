"""pull_push through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar

_symbol = function("fs_pull_push", [POINTER, INT, POINTER, POINTER, *[POINTER, INT] * 2, INT, INT])


def launch(
    x: torch.Tensor,
    center: torch.Tensor,
    squared_distance: torch.Tensor,
    pull: torch.Tensor,
    push: torch.Tensor,
) -> None:
    call(
        _symbol,
        *rows(x),
        address(center),
        address(squared_distance),
        *scalar(pull),
        *scalar(push),
        *x.shape,
    )
