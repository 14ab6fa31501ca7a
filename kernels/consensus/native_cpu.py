"""consensus through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function("fs_consensus", [POINTER, INT, POINTER, POINTER, INT, INT])


def launch(x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
    call(_symbol, *rows(x), address(mean), address(squared_distance), *x.shape)
