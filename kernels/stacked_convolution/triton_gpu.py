"""Convolutions of stacked agents in Triton: what each op launches."""

from torch import Tensor

from fastsaddle.kernels.stacked_convolution.images_triton import convolve
from fastsaddle.kernels.stacked_convolution.layers import Geometry, Pair
from fastsaddle.kernels.stacked_convolution.weight_triton import sum_products


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    tf32: bool,
    out: Tensor,
) -> None:
    convolve(x, weight, bias, out, Geometry(stride, padding, dilation), False, tf32)


def launch_input_gradient(
    gradient: Tensor,
    weight: Tensor,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    tf32: bool,
    out: Tensor,
) -> None:
    convolve(gradient, weight, None, out, Geometry(stride, padding, dilation), True, tf32)


def launch_weight_gradient(
    gradient: Tensor,
    x: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    tf32: bool,
    out: Tensor,
) -> None:
    sum_products(gradient, x, out, Geometry(stride, padding, dilation), tf32)
