"""EvoNorm-S0 with a hard gate for stacked agents, with 16 samples in the lanes of a register.

    out = x * relu6(x + 3) / 6 * inverse * weight + bias;   inverse = 1 / sqrt(variance + eps)

of a group of channels of one sample, the variance biased (Liu, Brock, Simonyan, Le 2020, arXiv:2004.02967, with the
gate of arXiv:2209.14390). There is no Triton twin: on a GPU the modules themselves are mapped.

Rounding: sums in an order that each implementation chooses: 2^-16 of the largest number of a result. Bits do not depend
on agents, threads or the width of registers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels._shared.lanes.blocks import BLOCK
from fastsaddle.kernels.arguments import Array, Int, Number
from fastsaddle.kernels.op import Op

from .reference import backward_reference, forward_reference

IMAGES = "agents, blocks, channels, height, width, 16"
GROUPS = "agents, blocks, groups, 16"
EPS = 1e-5
X = Array("x", torch.float32, IMAGES, may_be_empty=True, about="the samples in blocks")
WEIGHT = Array("weight", torch.float32, "agents, channels", apart=True)


def check_groups(x: Tensor, means: Tensor) -> None:
    groups = means.shape[2]
    if groups < 1 or x.shape[2] % groups:
        raise ValueError(
            f"x must have channels a multiple of the {groups} groups, got {x.shape[2]}"
        )


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Images of about `columns` numbers."""

    def arguments(blocks: int, channels: int, groups: int) -> dict[str, Any]:
        shape = agents, blocks, channels, 3, 1 + min(columns, 1024) // 96, BLOCK
        # parts of rows, as in a stack
        weight, bias = (
            torch.randn(agents, channels + 5, generator=generator)[:, 2 : 2 + channels]
            for _ in range(2)
        )
        return {
            "x": 3 * torch.randn(shape, generator=generator),
            "weight": weight,
            "bias": bias,
            "groups": groups,
            "eps": EPS,
            "out": torch.zeros(shape),
            "means": torch.zeros(agents, blocks, groups, BLOCK),
            "inverses": torch.zeros(agents, blocks, groups, BLOCK),
        }

    return {"groups": arguments(1, 6, 3), "one-group": arguments(2, 4, 1)}


def examples_backward(
    agents: int, columns: int, generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    result = {}
    for variant, of in examples(agents, columns, generator).items():
        forward_reference(**of)
        result[variant] = {
            "gradient": torch.randn(of["x"].shape, generator=generator),
            **{name: of[name] for name in ("x", "weight", "means", "inverses")},
            "x_gradient": torch.zeros_like(of["x"]),
            "weight_gradient": torch.zeros(of["weight"].shape),
            "bias_gradient": torch.zeros(of["bias"].shape),
        }
    return result


def passes(arguments: Mapping[str, Any]) -> float:
    """Of buffers as large as the samples."""
    return 3 if "gradient" in arguments else 2


def tolerance(output: str, arguments: Mapping[str, Any], expected: Tensor) -> Tensor:
    return torch.full_like(expected, float(expected.abs().amax()) * 2.0**-16)


lane_evonorm = Op(
    name="lane_evonorm",
    arguments=(
        X,
        WEIGHT,
        Array("bias", torch.float32, "agents, channels", apart=True),
        Int("groups", 1),
        Number("eps", about="added to the variance"),
        Array("out", torch.float32, IMAGES, written=True, read=False),
        Array("means", torch.float32, GROUPS, written=True, read=False),
        Array("inverses", torch.float32, GROUPS, written=True, read=False),
    ),
    reference=forward_reference,
    rules=(check_groups,),
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
    is_layer=True,
)

lane_evonorm_backward = Op(
    name="lane_evonorm_backward",
    arguments=(
        Array(
            "gradient",
            torch.float32,
            IMAGES,
            may_be_empty=True,
            about="of what lane_evonorm wrote, zeros behind the last sample",
        ),
        Array("x", torch.float32, IMAGES),
        WEIGHT,
        Array("means", torch.float32, GROUPS, may_be_empty=True, about="those of lane_evonorm"),
        Array("inverses", torch.float32, GROUPS, about="those of lane_evonorm"),
        Array("x_gradient", torch.float32, IMAGES, written=True, read=False),
        Array(
            "weight_gradient",
            torch.float32,
            "agents, channels",
            apart=True,
            written=True,
            read=False,
            optional=True,
            about="None where it is not wanted",
        ),
        Array(
            "bias_gradient",
            torch.float32,
            "agents, channels",
            apart=True,
            written=True,
            read=False,
            optional=True,
            about="None where it is not wanted",
        ),
    ),
    reference=backward_reference,
    rules=(check_groups,),
    folder=__name__,
    examples=examples_backward,
    passes=passes,
    tolerance=tolerance,
    doc="""Gradients of `lane_evonorm`: of samples, weights and bias.

Source: as of `lane_evonorm`.

Rounding: as of `lane_evonorm`.""",
    is_layer=True,
)
