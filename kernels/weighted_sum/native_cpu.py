"""weighted_sum through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function
from fastsaddle.kernels.native import rows as rows_of

_symbol = function("fs_weighted_sum", [*[POINTER, INT] * 2, POINTER, POINTER, *[INT] * 4])


def launch(
    rows: torch.Tensor, out: torch.Tensor, sources: torch.Tensor, weights: torch.Tensor
) -> None:
    call(
        _symbol,
        *rows_of(rows),
        *rows_of(out),
        address(sources),
        address(weights),
        rows.shape[0],
        *out.shape,
        sources.shape[1],
    )
