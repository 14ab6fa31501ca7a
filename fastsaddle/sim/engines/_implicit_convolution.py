"""Convolutions with weights of each agent's own by the implicit-GEMM kernels, with gradients.

The ops and their source are in fastsaddle.kernels.stacked_convolution.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastsaddle.kernels.stacked_convolution import (
    Geometry,
    stacked_convolution,
    stacked_convolution_input_gradient,
    stacked_convolution_weight_gradient,
)


class ImplicitConvolution(torch.autograd.Function):
    """`[agents, batch, channels, height, width]` with `[agents, out, channels, *kernel]` and `[agents, out]` or None.

    Nothing but the arguments is kept for the backward pass, which cannot be differentiated again.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tf32: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = *geometry, tf32
        return stacked_convolution(x, weight, bias, *ctx.how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = stacked_convolution_input_gradient(gradient, weight, x.shape[3:], *ctx.how)
        if ctx.needs_input_grad[1]:
            for_weight = stacked_convolution_weight_gradient(
                gradient, x, weight.shape[3:], *ctx.how
            )
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum((1, 3, 4))
        return for_x, for_weight, for_bias, None, None


def implicit_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tf32: bool = False
) -> Tensor:
    """`[agents, batch, out, *positions]`, contiguous; float32 or bfloat16, float32 factors in TF32 if asked.

    Raises:
        ImportError: the backend that was asked for cannot run there.
        ValueError: shapes that do not fit, other dtypes.
    """
    return ImplicitConvolution.apply(x, weight, bias, geometry, tf32)
