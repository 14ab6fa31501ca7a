"""norm_of_squares through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function

_symbol = function("fs_norm_of_squares", [*[POINTER] * 4, INT, INT])


def launch(
    squares: torch.Tensor, gate: torch.Tensor | None, norm: torch.Tensor, skipped: torch.Tensor
) -> None:
    call(_symbol, address(squares), address(gate), address(norm), address(skipped), *squares.shape)
