"""sign through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function(
    "fs_sign",
    [*[POINTER, INT] * 2, INT, INT, INT, POINTER, POINTER],
)


def launch(
    x: torch.Tensor, buckets: torch.Tensor, bucket: int, signs: torch.Tensor, scales: torch.Tensor
) -> None:
    call(
        _symbol,
        *rows(x),
        address(buckets),
        buckets.shape[0],
        bucket,
        *x.shape,
        address(signs),
        address(scales),
    )
