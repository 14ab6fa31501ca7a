"""Convolutions of stacked agents in plain PyTorch, one agent after the other: the specification."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from fastsaddle.kernels.stacked_convolution.layers import Pair


def _wide(t: Tensor) -> Tensor:
    """As sums are taken: float32, or float64 where that is given."""
    return t.float() if t.dtype == torch.bfloat16 else t


def output_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    tf32: bool,
    out: Tensor,
) -> None:
    for agent in range(len(x)):
        own = None if bias is None else _wide(bias[agent])
        out[agent] = F.conv2d(_wide(x[agent]), _wide(weight[agent]), own, stride, padding, dilation)


def input_gradient_reference(
    gradient: Tensor,
    weight: Tensor,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    tf32: bool,
    out: Tensor,
) -> None:
    for agent in range(len(gradient)):
        given = _wide(weight[agent]), _wide(gradient[agent])
        out[agent] = conv2d_input(out.shape[1:], *given, stride, padding, dilation)


def weight_gradient_reference(
    gradient: Tensor,
    x: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    tf32: bool,
    out: Tensor,
) -> None:
    for agent in range(len(gradient)):
        given = _wide(x[agent]), out.shape[1:], _wide(gradient[agent])
        out[agent] = conv2d_weight(*given, stride, padding, dilation)
