"""The convolution that the published families share, with their initialization."""

from torch import nn


def convolution(
    inputs: int,
    outputs: int,
    size: int = 3,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
) -> nn.Conv2d:
    """A `size` x `size` convolution, padded by `size // 2` unless told otherwise.

    Weights are normal with variance 2 / (size * size * outputs) (He et al. 2015, arXiv:1502.01852, counting outputs, as
    in the public code of arXiv:2209.14390 and arXiv:2102.04761), biases zero.
    """
    padding = size // 2 if padding is None else padding
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
