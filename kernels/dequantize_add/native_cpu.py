"""dequantize_add through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar

_symbol = function(
    "fs_dequantize_add",
    [*[POINTER] * 4, *[INT] * 3, *[POINTER, INT] * 2, INT, INT],
)


def launch(
    codes: torch.Tensor | None,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    weight: torch.Tensor,
    out: torch.Tensor,
) -> None:
    call(
        _symbol,
        address(codes),
        address(scales),
        address(signs),
        address(buckets),
        buckets.shape[0],
        bucket,
        bits,
        *scalar(weight),
        *rows(out),
        *out.shape,
    )
