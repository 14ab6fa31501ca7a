"""Convolutions of stacked agents, each with weights of its own, with 16 samples in the lanes of a register.

One agent's samples lie in blocks `[channels, height, width, 16]` (`to_blocks`), zeros behind the last. A sum over taps
is then a chain of multiply-adds of whole registers, whatever kernel, stride or padding: nothing is shuffled, and no
patches are laid out. ReLU and max-pooling over windows of 2 x 2 that do not overlap are done on the way out; a last odd
row or column is left out.

There is no Triton twin: on a GPU the convolutions of `stacked_convolution` do this. Source: the layout is that of
Chetlur et al. 2014, arXiv:1410.0759, "CHWN", cut into blocks; tiles are a reconstruction.

Rounding: AVX2 and AVX-512 give the same bits, as sums are fused multiply-adds in the same order; without them products
round once more. The reference is PyTorch's convolution, whose order is another: 2^-23 of a sum's absolute terms for
each of them. Bits do not depend on agents or threads.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels._shared.lanes.blocks import BLOCK
from fastsaddle.kernels.arguments import Array, Flag, Pair
from fastsaddle.kernels.op import Op

from .layer import Layer, are_fast, layer_of
from .reference import backward_reference, forward_reference

__all__ = ["Layer", "are_fast", "lane_convolution", "lane_convolution_backward"]

IMAGES = "agents, blocks, channels, height, width, 16"
RESULTS = "agents, blocks, outputs, down, right, 16"
WEIGHTS = "agents, outputs, channels, tall, wide"
X = Array(
    "x",
    torch.float32,
    IMAGES,
    apart=True,
    may_be_empty=True,
    about="the samples; agents may share them (stride 0)",
)
WEIGHT = Array("weight", torch.float32, WEIGHTS, apart=True)
HOW = (
    *(Pair("stride", 1), Pair("padding", 0), Pair("dilation", 1)),
    Flag("relu", about="ReLU follows"),
    Flag("pool", about="max-pooling follows"),
)


def check_result(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    pool: bool,
) -> None:
    layer = layer_of(x, weight, stride, padding, dilation, False, pool)
    layer.check()
    expected = [*x.shape[:2], layer.outputs, *layer.result, BLOCK]
    if list(out.shape) != expected:
        raise ValueError(f"out and its gradient must be {expected}, got {list(out.shape)}")


def check_gradient(
    gradient: Tensor,
    codes: Tensor | None,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    relu: bool,
    pool: bool,
) -> None:
    check_result(x, weight, gradient, stride, padding, dilation, pool)
    if codes is None and (relu or pool):
        raise ValueError("the gradient of ReLU and pooling needs codes, got None")


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Images of about `columns` numbers, and few whole numbers: sums are exact, and windows have several largest."""

    def drawn(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    def arguments(blocks: int, how: tuple[Any, ...], has_bias: bool = True) -> dict[str, Any]:
        x = drawn(agents, blocks, 3, 6, 5 + min(columns, 1024) // 96, BLOCK)
        layer = layer_of(x, torch.empty(1, 4, 3, 3, 2), *how)
        shape = (agents, blocks, 4, *layer.result, BLOCK)
        return {
            "x": x,
            # parts of rows, as in a stack
            "weight": (drawn(agents, 80) / 4)[:, 3:75].unflatten(1, (4, 3, 3, 2)),
            "bias": drawn(agents, 9)[:, 2:6] if has_bias else None,
            "out": torch.zeros(shape),
            "codes": torch.zeros(shape, dtype=torch.uint8) if layer.relu or layer.pool else None,
            **dict(zip(("stride", "padding", "dilation", "relu", "pool"), how, strict=True)),
        }

    return {
        "plain": arguments(1, ((1, 1), (0, 0), (1, 1), False, False), False),
        "relu": arguments(2, ((2, 1), (1, 1), (1, 1), True, False)),
        "pool": arguments(1, ((1, 1), (1, 2), (1, 2), False, True)),
        "relu-pool": arguments(2, ((1, 1), (1, 1), (1, 1), True, True)),
    }


def examples_backward(
    agents: int, columns: int, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    result = {}
    for variant, of in examples(agents, columns, generator).items():
        forward_reference(**of)
        gradient = torch.randint(-2, 3, of["out"].shape, generator=generator).float()
        result[variant] = {
            "gradient": gradient,
            **{name: of[name] for name in ("codes", "x", "weight")},
            "x_gradient": torch.zeros_like(of["x"]),
            "weight_gradient": torch.zeros(of["weight"].shape),
            "bias_gradient": None if of["bias"] is None else torch.zeros(of["bias"].shape),
            **{name: of[name] for name in ("stride", "padding", "dilation", "relu", "pool")},
        }
    return result


def passes(arguments: Mapping[str, Any]) -> float:
    """Of buffers as large as the samples: they are read, and the result is written."""
    x, codes = arguments["x"], arguments["codes"]
    result = arguments["out"] if "out" in arguments else arguments["gradient"]
    share = result.numel() / x.numel()
    return 1 + share * (1 if codes is None else 1.25)


def passes_backward(arguments: Mapping[str, Any]) -> float:
    return passes(arguments) + (arguments["x_gradient"] is not None)


def tolerance_by(
    reference: Callable[..., None], terms: Callable[[Mapping[str, Any]], int]
) -> Callable[[str, Mapping[str, Any], Tensor], Tensor]:
    """2^-23 of the absolute terms for each of them, and none for codes."""

    def allowed(output: str, arguments: Mapping[str, Any], expected: Tensor) -> Tensor:
        if output == "codes":
            return torch.zeros_like(expected)
        sizes = {
            name: value.cpu().abs()
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
            for name, value in arguments.items()
        }
        sizes[output] = torch.zeros(expected.shape)
        reference(**sizes)
        return sizes[output].to(expected.device) * (terms(arguments) + 2) * 2.0**-23

    return allowed


def terms_forward(arguments: Mapping[str, Any]) -> int:
    return arguments["weight"][0, 0].numel() + 1


def terms_backward(arguments: Mapping[str, Any]) -> int:
    return max(arguments["weight"][0].numel(), arguments["gradient"][0, :, 0].numel())


lane_convolution = Op(
    name="lane_convolution",
    arguments=(
        X,
        WEIGHT,
        Array("bias", torch.float32, "agents, outputs", apart=True, optional=True),
        Array("out", torch.float32, RESULTS, written=True, read=False, may_be_empty=True),
        Array(
            "codes",
            torch.uint8,
            RESULTS,
            written=True,
            read=False,
            optional=True,
            about="which position of its window a number comes from (top left, top right, below them), or 4 where ReLU "
            "gave 0; None where it is not needed",
        ),
        *HOW,
    ),
    reference=forward_reference,
    rules=(check_result,),
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance_by(forward_reference, terms_forward),
    is_layer=True,
)

lane_convolution_backward = Op(
    name="lane_convolution_backward",
    arguments=(
        Array(
            "gradient",
            torch.float32,
            RESULTS,
            may_be_empty=True,
            about="of what lane_convolution wrote, zeros behind the last sample",
        ),
        Array(
            "codes",
            torch.uint8,
            RESULTS,
            optional=True,
            about="those of lane_convolution; None where there is neither ReLU nor pooling",
        ),
        *(X, WEIGHT),
        Array("x_gradient", torch.float32, IMAGES, written=True, read=False, optional=True),
        Array(
            "weight_gradient",
            torch.float32,
            WEIGHTS,
            apart=True,
            written=True,
            read=False,
            optional=True,
        ),
        Array(
            "bias_gradient",
            torch.float32,
            "agents, outputs",
            apart=True,
            written=True,
            read=False,
            optional=True,
        ),
        *HOW,
    ),
    reference=backward_reference,
    rules=(check_gradient,),
    folder=__name__,
    examples=examples_backward,
    passes=passes_backward,
    tolerance=tolerance_by(backward_reference, terms_backward),
    is_layer=True,
    doc="""Gradients of `lane_convolution`: of samples, weights and bias, each None where it is not wanted.

Source: as of `lane_convolution`.

Rounding: as of `lane_convolution`. Parts of the blocks are added up by themselves: bits depend on the number of blocks,
and not on agents or threads.""",
)
