"""EvoNorm on blocks of samples through the compiled CPU library."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

ROWS = (POINTER, INT)


@cache
def _symbols() -> tuple[Any, Any]:
    forward = [POINTER, *ROWS, *ROWS, *[POINTER] * 4, *[INT] * 5]
    backward = [POINTER, POINTER, *ROWS, *[POINTER] * 3, *ROWS, *ROWS, POINTER, *[INT] * 5]
    return function("fs_lane_evonorm", forward), function("fs_lane_evonorm_backward", backward)


def _sizes(x: Tensor, groups: int) -> tuple[int, ...]:
    return *x.shape[:3], groups, x.shape[3] * x.shape[4]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    out: Tensor,
    means: Tensor,
    inverses: Tensor,
) -> None:
    added = torch.tensor(eps)
    call(
        *(_symbols()[0], address(x), *rows(weight), *rows(bias), address(added), address(out)),
        *(address(means), address(inverses), *_sizes(x, groups)),
    )


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    means: Tensor,
    inverses: Tensor,
    x_gradient: Tensor,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
) -> None:
    partial = torch.empty(*x.shape[:2], 2, x.shape[2])
    call(
        *(_symbols()[1], address(gradient), address(x), *rows(weight), address(means)),
        *(address(inverses), address(x_gradient), *rows(weight_gradient), *rows(bias_gradient)),
        *(address(partial), *_sizes(x, means.shape[2])),
    )
