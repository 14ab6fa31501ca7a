"""quantize through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar

_symbol = function(
    "fs_quantize",
    [*[POINTER, INT] * 2, *[INT] * 7, POINTER, INT, INT, *[POINTER] * 3],
)


def launch(
    x: torch.Tensor,
    buckets: torch.Tensor,
    bucket: int,
    bits: int,
    levels: int,
    norm: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    codes: torch.Tensor,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
) -> None:
    call(
        _symbol,
        *rows(x),
        address(buckets),
        buckets.shape[0],
        bucket,
        *x.shape,
        bits,
        levels,
        norm,
        seed,
        *scalar(step),
        first_agent,
        address(codes),
        address(scales),
        address(signs),
    )
