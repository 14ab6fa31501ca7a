"""Convolutions of stacked agents, each with weights of its own, for GPUs: no patches are laid out.

`tf32` rounds float32 factors to TF32. Tensors are read in place where each agent's part is contiguous. No autograd
formula is registered here: fastsaddle.sim.engines._implicit_convolution has one.

Source: Chetlur et al. 2014, arXiv:1410.0759, section 3; kernels and tiles are a reconstruction. Not measured on a GPU.

Rounding: sums are float32, in an order that depends on the shapes of one agent and not on how many there are: 2^-23 of
a sum's absolute terms for each of them, with TF32 2^-9 of these terms more, and one rounding of the result to bfloat16
or float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels.arguments import Array, Flag, Pair
from fastsaddle.kernels.op import Op

from .layers import DTYPES, Geometry, check_alike, output_shape
from .layers import Pair as Two
from .reference import input_gradient_reference, output_reference, weight_gradient_reference

__all__ = [
    "Geometry",
    "stacked_convolution",
    "stacked_convolution_input_gradient",
    "stacked_convolution_weight_gradient",
]

IMAGES = "agents, batch, channels, height, width"
WEIGHTS = "agents, outputs, channels, tall, wide"
RESULTS = "agents, batch, outputs, down, right"
X = Array("x", DTYPES, IMAGES, strided=True, about="the images")
WEIGHT = Array("weight", DTYPES, WEIGHTS, strided=True)
GRADIENT = Array(
    "gradient", DTYPES, RESULTS, strided=True, about="of what stacked_convolution gave"
)
HOW = (
    *(Pair("stride", 1), Pair("padding", 0), Pair("dilation", 1)),
    Flag("tf32", about="factors in TF32"),
)


def check_output(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Two, padding: Two, dilation: Two
) -> None:
    check_alike(x=x, weight=weight, bias=bias)
    output_shape(x.shape, weight.shape, Geometry(stride, padding, dilation))


def check_input_gradient(
    gradient: Tensor, weight: Tensor, size: Two, stride: Two, padding: Two, dilation: Two
) -> None:
    check_alike(gradient=gradient, weight=weight)
    images = [*gradient.shape[:2], weight.shape[2], *size]
    check_result(gradient, output_shape(images, weight.shape, Geometry(stride, padding, dilation)))


def check_weight_gradient(
    gradient: Tensor, x: Tensor, kernel: Two, stride: Two, padding: Two, dilation: Two
) -> None:
    check_alike(gradient=gradient, x=x)
    weights = [x.shape[0], gradient.shape[2], x.shape[2], *kernel]
    check_result(gradient, output_shape(x.shape, weights, Geometry(stride, padding, dilation)))


def check_result(gradient: Tensor, expected: list[int]) -> None:
    if list(gradient.shape) != expected:
        raise ValueError(f"gradient must be {expected}, got {list(gradient.shape)}")


def empty_output(x: Tensor, weight: Tensor, stride: Two, padding: Two, dilation: Two) -> Tensor:
    return x.new_empty(output_shape(x.shape, weight.shape, Geometry(stride, padding, dilation)))


def empty_images(gradient: Tensor, weight: Tensor, size: Two) -> Tensor:
    return gradient.new_empty([*gradient.shape[:2], weight.shape[2], *size])


def empty_weights(gradient: Tensor, x: Tensor, kernel: Two) -> Tensor:
    return x.new_empty([x.shape[0], gradient.shape[2], x.shape[2], *kernel])


def cases(
    agents: int, columns: int, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor, Tensor, dict[str, Any]]]:
    """Images, weights, bias, and how, for images of a few hundred numbers at most."""

    def case(
        size: Two,
        outputs: int,
        kernel: Two,
        *how: Two,
        dtype: torch.dtype = torch.float32,
        tf32: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(dtype)

        named = dict(zip(("stride", "padding", "dilation"), how, strict=True))
        parts = (
            drawn(agents, 2, 3, *size),
            drawn(agents, outputs, 3, *kernel),
            drawn(agents, outputs),
        )
        return *parts, {**named, "tf32": tf32}

    wide = 5 + min(columns, 1024) // 64
    return {
        "plain": case((6, wide), 4, (3, 3), (1, 1), (0, 0), (1, 1)),
        "strided": case((5, wide), 17, (3, 2), (2, 1), (1, 2), (1, 1)),
        "dilated-tf32": case((7, wide), 2, (3, 2), (1, 2), (2, 0), (2, 1), tf32=True),
        "pointwise-bfloat16": case(
            (4, wide), 6, (1, 1), (1, 1), (0, 0), (1, 1), dtype=torch.bfloat16
        ),
    }


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    return {
        variant: {"x": x, "weight": weight, "bias": None if variant == "plain" else bias, **how}
        for variant, (x, weight, bias, how) in cases(agents, columns, generator).items()
    }


def with_gradients(
    agents: int, columns: int, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor, Tensor, dict[str, Any]]]:
    """Gradients, images, weights, and how."""
    result = {}
    for variant, (x, weight, _, how) in cases(agents, columns, generator).items():
        out = empty_output(x, weight, how["stride"], how["padding"], how["dilation"])
        gradient = torch.randn(out.shape, generator=generator).to(out.dtype)
        result[variant] = gradient, x, weight, how
    return result


def input_examples(
    agents: int, columns: int, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    return {
        variant: {"gradient": gradient, "weight": weight, "size": tuple(x.shape[3:]), **how}
        for variant, (gradient, x, weight, how) in with_gradients(
            agents, columns, generator
        ).items()
    }


def weight_examples(
    agents: int, columns: int, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    return {
        variant: {"gradient": gradient, "x": x, "kernel": tuple(weight.shape[3:]), **how}
        for variant, (gradient, x, weight, how) in with_gradients(
            agents, columns, generator
        ).items()
    }


def passes(arguments: Mapping[str, Any]) -> float:
    """Of buffers as large as the first argument: that it is read once; the other images depend on the layer."""
    return 1


def tolerance_by(
    reference: Callable[..., None], terms: Callable[[Mapping[str, Any]], int]
) -> Callable[[str, Mapping[str, Any], Tensor], Tensor]:
    """What the text above allows, from the absolute terms of the sums."""

    def allowed(output: str, arguments: Mapping[str, Any], expected: Tensor) -> Tensor:
        wide = {
            name: value.cpu().double().abs() if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
        sizes = torch.zeros(expected.shape, dtype=torch.float64)
        reference(**wide, out=sizes)
        of_terms = (terms(arguments) + 2) * 2.0**-23 + (2.0**-9 if arguments["tf32"] else 0.0)
        rounding = 2.0**-7 if expected.dtype == torch.bfloat16 else 2.0**-24
        return (of_terms * sizes).to(expected.device) + rounding * expected.double().abs()

    return allowed


def terms_of_output(arguments: Mapping[str, Any]) -> int:
    return arguments["weight"][0, 0].numel() + 1


def terms_of_images(arguments: Mapping[str, Any]) -> int:
    return arguments["weight"][0].numel()


def terms_of_weights(arguments: Mapping[str, Any]) -> int:
    return arguments["gradient"][0].numel()


stacked_convolution = Op(
    name="stacked_convolution",
    arguments=(
        X,
        WEIGHT,
        Array("bias", DTYPES, "agents, outputs", strided=True, optional=True),
        *HOW,
    ),
    reference=output_reference,
    rules=(check_output,),
    makes=empty_output,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance_by(output_reference, terms_of_output),
    is_layer=True,
)

stacked_convolution_input_gradient = Op(
    name="stacked_convolution_input_gradient",
    arguments=(GRADIENT, WEIGHT, Pair("size", 1, about="height and width of the images"), *HOW),
    reference=input_gradient_reference,
    rules=(check_input_gradient,),
    makes=empty_images,
    launch="launch_input_gradient",
    folder=__name__,
    examples=input_examples,
    passes=passes,
    tolerance=tolerance_by(input_gradient_reference, terms_of_images),
    doc="""The gradient of `stacked_convolution`'s images.

Source: as of `stacked_convolution`.

Rounding: as of `stacked_convolution`.""",
    is_layer=True,
)

stacked_convolution_weight_gradient = Op(
    name="stacked_convolution_weight_gradient",
    arguments=(GRADIENT, X, Pair("kernel", 1, about="height and width of the weights"), *HOW),
    reference=weight_gradient_reference,
    rules=(check_weight_gradient,),
    makes=empty_weights,
    launch="launch_weight_gradient",
    folder=__name__,
    examples=weight_examples,
    passes=passes,
    tolerance=tolerance_by(weight_gradient_reference, terms_of_weights),
    doc="""The gradient of `stacked_convolution`'s weights.

Source: as of `stacked_convolution`.

Rounding: as of `stacked_convolution`.""",
    is_layer=True,
)
