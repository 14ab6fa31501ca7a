"""Convolutions of stacked agents, each with weights of its own, as torch operators on Triton kernels.

    torch.ops.fastsaddle.stacked_convolution(x, weight, bias, stride, padding, dilation, tf32) -> out
    torch.ops.fastsaddle.stacked_convolution_input_gradient(gradient, weight, size, stride, ...) -> like x
    torch.ops.fastsaddle.stacked_convolution_weight_gradient(gradient, x, kernel, stride, ...) -> like weight

    x         `[agents, batch, channels, height, width]`
    weight    `[agents, out, channels, *kernel]`; bias `[agents, out]` or None
    out       `[agents, batch, out, *positions]`, contiguous; gradient is that of out
    size      (height, width) of x; stride, padding and dilation are (vertical, horizontal) too

All float32 or all bfloat16, one group. Sums are taken in float32 in an order that depends on the shapes of one agent,
not on how many there are; `tf32` rounds float32 factors to TF32. Tensors are read in place where each agent's part is
contiguous. The operators run on GPUs, and on a CPU under TRITON_INTERPRET=1; elsewhere they raise ImportError. They
raise ValueError as `_convolution.output_shape` and `check_alike` do. No autograd formula is registered here:
fastsaddle.sim.engines._implicit_convolution has one.

Source: Chetlur et al. 2014, arXiv:1410.0759, section 3; kernels and tiles are a reconstruction. Not measured on a GPU.
"""

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels.op import LIBRARY, interpreting
from fastsaddle.kernels.stacked_convolution.layers import Geometry, check_alike, output_shape

Shape = Sequence[int]


def unavailable(device: torch.device) -> str | None:
    """Why the operators cannot run on `device` in this process; None where they can."""
    if device.type not in ("cuda", "cpu"):
        return f"the Triton kernels are for GPUs, the device is {device}"
    try:
        interprets = interpreting()
    except ImportError as error:
        return f"Triton is missing: {error}"
    if device.type == "cpu" and not interprets:
        return "the Triton kernels take CPU tensors only under TRITON_INTERPRET=1"
    return None


def _launch(launcher: str, *arguments: Any) -> None:
    device = arguments[0].device
    reason = unavailable(device)
    if reason is not None:
        raise ImportError(f"stacked convolutions cannot run: {reason}")
    module = importlib.import_module(f"fastsaddle.kernels.stacked_convolution.{launcher}")
    on_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with torch.no_grad(), on_device:
        module.launch(*arguments)


def _geometry(stride: Shape, padding: Shape, dilation: Shape, tf32: bool) -> Geometry:
    down, right = zip(stride, padding, dilation, strict=True)
    return Geometry(*zip(map(int, down), map(int, right), strict=True))


def _empty_output(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    check_alike(x=x, weight=weight, bias=bias)
    shape = output_shape(x.shape, weight.shape, _geometry(*how))
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(
            f"bias must be [agents, out] = {list(weight.shape[:2])}, got {list(bias.shape)}"
        )
    return x.new_empty(shape)


def _output(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    out = _empty_output(x, weight, bias, *how)
    _launch("triton_gpu", x, weight, bias, out, _geometry(*how), False, how[3])
    return out


def _empty_input_gradient(gradient: Tensor, weight: Tensor, size: Shape, *how: Any) -> Tensor:
    check_alike(gradient=gradient, weight=weight)
    shape = [*gradient.shape[:2], weight.shape[2], *size]
    _check_gradient(gradient, shape, weight.shape, *how)
    return gradient.new_empty(shape)


def _input_gradient(gradient: Tensor, weight: Tensor, size: Shape, *how: Any) -> Tensor:
    out = _empty_input_gradient(gradient, weight, size, *how)
    _launch("triton_gpu", gradient, weight, None, out, _geometry(*how), True, how[3])
    return out


def _empty_weight_gradient(gradient: Tensor, x: Tensor, kernel: Shape, *how: Any) -> Tensor:
    check_alike(gradient=gradient, x=x)
    shape = [x.shape[0], gradient.shape[2], x.shape[2], *kernel]
    _check_gradient(gradient, x.shape, shape, *how)
    return x.new_empty(shape)


def _weight_gradient(gradient: Tensor, x: Tensor, kernel: Shape, *how: Any) -> Tensor:
    out = _empty_weight_gradient(gradient, x, kernel, *how)
    _launch("weight_triton", gradient, x, out, _geometry(*how), how[3])
    return out


def _check_gradient(gradient: Tensor, x: Shape, weight: Shape, *how: Any) -> None:
    expected = output_shape(x, weight, _geometry(*how))
    if list(gradient.shape) != expected:
        raise ValueError(f"gradient must be {expected}, got {list(gradient.shape)}")


HOW = "int[2] stride, int[2] padding, int[2] dilation, bool tf32"
OPERATORS: dict[str, tuple[str, Callable[..., Tensor], Callable[..., Tensor]]] = {
    "stacked_convolution": ("Tensor x, Tensor weight, Tensor? bias", _output, _empty_output),
    "stacked_convolution_input_gradient": (
        "Tensor gradient, Tensor weight, int[2] size",
        _input_gradient,
        _empty_input_gradient,
    ),
    "stacked_convolution_weight_gradient": (
        "Tensor gradient, Tensor x, int[2] kernel",
        _weight_gradient,
        _empty_weight_gradient,
    ),
}
for _name, (_tensors, _run, _fake) in OPERATORS.items():
    LIBRARY.define(f"{_name}({_tensors}, {HOW}) -> Tensor")
    LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastsaddle::{_name}", _fake, lib=LIBRARY)

stacked_convolution = torch.ops.fastsaddle.stacked_convolution.default
input_gradient = torch.ops.fastsaddle.stacked_convolution_input_gradient.default
weight_gradient = torch.ops.fastsaddle.stacked_convolution_weight_gradient.default
