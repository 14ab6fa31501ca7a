"""Shapes of convolutions over stacked agents: what the ops take and give."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)
# kernels count one agent's positions and weights, and what one sample holds, in 32 bits, and tiles end behind them
MOST = 2**31 - 2**14


Pair = tuple[int, int]


class Geometry(NamedTuple):
    """Of a convolution: (vertical, horizontal) each."""

    stride: Pair
    padding: Pair
    dilation: Pair


def output_shape(x: Sequence[int], weight: Sequence[int], geometry: Geometry) -> list[int]:
    """`[agents, batch, out, *positions]`, for `x` and `weight` shaped as the ops say.

    Raises:
        ValueError: shapes that do not fit each other, a kernel larger than the padded image, a part of one agent that
            the kernels cannot count.
    """
    if len(x) != 5 or len(weight) != 5 or (x[0], x[2]) != (weight[0], weight[2]):
        raise ValueError(
            "x must be [agents, batch, channels, height, width] and weight [agents, out, channels, *kernel], "
            f"got {list(x)} and {list(weight)}"
        )
    stride, padding, dilation = geometry
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(f"stride and dilation must be >= 1 and padding >= 0, got {geometry}")
    spans = [d * (k - 1) + 1 for k, d in zip(weight[3:], dilation, strict=True)]
    down, right = (
        (n + 2 * p - span) // s + 1
        for n, p, span, s in zip(x[3:], padding, spans, stride, strict=True)
    )
    if min(*x, *weight, down, right) < 1:
        raise ValueError(
            f"no size may be 0 and the kernel must fit, got {list(x)}, {list(weight)}, {geometry}"
        )
    plane = max(prod(x[3:]), down * right)
    largest = max(plane * max(x[1], x[2], weight[1]), prod(weight[1:]))
    if largest > MOST:
        raise ValueError(
            f"an agent's positions, weights and samples must be at most {MOST}, got {largest}"
        )
    return [*x[:2], weight[1], down, right]


def check_alike(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all are float32 or all are bfloat16, on one device."""
    given = {name: t for name, t in tensors.items() if t is not None}
    kinds = {(t.dtype, t.device) for t in given.values()}
    if len(kinds) > 1 or next(iter(kinds))[0] not in DTYPES:
        told = ", ".join(f"{name} {t.dtype} on {t.device}" for name, t in given.items())
        raise ValueError(f"all must be float32 or all bfloat16, on one device, got {told}")
