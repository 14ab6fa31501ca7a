"""A convolution layer on blocks of samples: its sizes, and the registers that it is computed in."""

import ctypes
from typing import NamedTuple

from torch import Tensor

from fastsaddle.kernels import native

# as in layer.h
NOWHERE = 4
# with registers of fewer floats (without AVX2 and FMA) they have not been measured
FAST_WIDTH = 8

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

    @property
    def how(self) -> tuple[Pair, Pair, Pair, bool, bool]:
        """What the ops are told besides the tensors."""
        return self.stride, self.padding, self.dilation, self.relu, self.pool


def layer_of(
    x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, relu: bool, pool: bool
) -> Layer:
    """The layer that takes blocks of samples `x` with weights of these shapes."""
    sizes = (
        x.shape[2],
        (x.shape[3], x.shape[4]),
        weight.shape[1],
        (weight.shape[3], weight.shape[4]),
    )
    return Layer(*sizes, stride, padding, dilation, bool(relu), bool(pool))


def register_width(most: int = 16) -> int:
    """Floats of the registers that convolutions take from now on: the widest here, of `most` floats at the most.

    Raises:
        ImportError: the native library cannot be opened.
    """
    return int(native.function("fs_lane_width", [ctypes.c_int64])(most))


def are_fast() -> bool:
    """Whether this processor has the registers that the native ops were measured with; False without them."""
    try:
        return register_width() >= FAST_WIDTH
    except ImportError:
        return False
