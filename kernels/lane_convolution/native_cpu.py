"""Convolutions on blocks of samples through the compiled CPU library."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels.lane_convolution.layer import PARTS, Layer
from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

ROWS = (POINTER, INT)
# floats of the widest registers that are used: 16 (AVX-512), 8 (AVX2) or 4
WIDEST = 16


@cache
def _symbols() -> tuple[Any, Any]:
    forward = [POINTER, *ROWS, *ROWS, *ROWS, POINTER, POINTER, INT, INT, INT]
    backward = [*[POINTER] * 3, *ROWS, *ROWS, POINTER, *ROWS, *ROWS, POINTER, INT, INT, INT]
    return (
        function("fs_lane_convolution", forward),
        function("fs_lane_convolution_backward", backward),
    )


def forward(
    layer: Layer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    codes: Tensor | None,
    widest: int = WIDEST,
) -> None:
    sizes = layer.sizes()
    given = *rows(x), *rows(weight), *rows(bias)
    call(
        *(_symbols()[0], sizes.data_ptr(), *given, address(out), address(codes)),
        *(*x.shape[:2], widest),
    )


def backward(
    layer: Layer,
    gradient: Tensor,
    codes: Tensor | None,
    x: Tensor,
    weight: Tensor,
    x_gradient: Tensor | None,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
    widest: int = WIDEST,
) -> None:
    sizes = layer.sizes()
    agents, blocks = x.shape[:2]
    sums = weight[0].numel() + layer.outputs
    partial = torch.empty(agents, min(blocks, PARTS), sums)
    call(
        *(_symbols()[1], sizes.data_ptr(), address(gradient), address(codes)),
        *(
            *rows(x),
            *rows(weight),
            address(x_gradient),
            *rows(weight_gradient),
            *rows(bias_gradient),
        ),
        *(address(partial), agents, blocks, widest),
    )
