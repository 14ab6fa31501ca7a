"""mix_dense through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function("fs_mix_dense", [POINTER, INT, POINTER, POINTER, INT, INT, INT])


def launch(x: torch.Tensor, W: torch.Tensor, out: torch.Tensor) -> None:
    call(_symbol, *rows(x), address(W), *rows(out), *x.shape)
