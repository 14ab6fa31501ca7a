"""A convolution layer on blocks of samples: what the functions of `ops.py` take and give."""

from typing import NamedTuple

import torch
from torch import Tensor

# as in layer.h
PARTS = 4
NOWHERE = 4

Pair = tuple[int, int]


class Layer(NamedTuple):
    """A convolution with one group and zero padding, and what follows it at once; pairs are (vertical, horizontal)."""

    channels: int
    size: Pair
    outputs: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    relu: bool
    pool: bool
    """Maxima of windows of 2 x 2 that do not overlap; a last odd row or column is left out."""

    @property
    def positions(self) -> Pair:
        """Height and width of what the convolution gives."""
        down, right = (
            (self.size[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return down, right

    @property
    def result(self) -> Pair:
        """Height and width of what the layer gives."""
        down, right = self.positions
        return (down // 2, right // 2) if self.pool else (down, right)

    def check(self) -> None:
        """Raise ValueError for strides, paddings and sizes that no convolution has."""
        if min(*self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise ValueError(f"stride and dilation must be >= 1 and padding >= 0, got {self}")
        if min(*self.result, *self.kernel) < 1:
            raise ValueError(f"the kernel must fit, and leave a window to pool, got {self}")

    def sizes(self) -> Tensor:
        """As the native library reads them."""
        pairs = (self.kernel, self.stride, self.padding, self.dilation, self.positions)
        flat = (self.channels, *self.size, self.outputs, *sum(pairs, ()), self.relu, self.pool)
        return torch.tensor(flat, dtype=torch.int64)
