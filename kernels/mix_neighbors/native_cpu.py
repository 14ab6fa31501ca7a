"""mix_neighbors through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function("fs_mix_neighbors", [*[POINTER, INT] * 2, POINTER, POINTER, *[INT] * 4])


def launch(
    x: torch.Tensor, out: torch.Tensor, neighbors: torch.Tensor, weights: torch.Tensor
) -> None:
    call(
        _symbol,
        *rows(x),
        *rows(out),
        address(neighbors),
        address(weights),
        x.shape[0],
        *out.shape,
        neighbors.shape[1],
    )
