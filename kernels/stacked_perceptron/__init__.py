"""Perceptrons of stacked agents: mean cross entropy and its gradients in one call, from inputs to the flat buffer.

    h_0 = inputs;  h_l = relu(h_(l-1) weight_l^T + bias_l), or without relu
    loss = mean over samples of cross_entropy(h_last, labels)

Gradients go where the layers' tensors lie; other columns are left as they are. An agent is taken from its inputs to its
gradients before the next one is, so that its activations and model stay in a core's cache. Samples lie side by side in
the registers of a forward pass, columns of a weight in those of a gradient. Where wanted, the squares of a row's
gradients are added up while it is in the cache, in `agent_norm`'s order. On a GPU batched products of torch are used
instead. A label that is no class raises RuntimeError, and nothing is written.

Source: backpropagation, Rumelhart, Hinton, Williams 1986; the order of loops is a reconstruction.

Rounding: products of float32 are summed in one order for each sum, whatever the number of agents or threads; it differs
from the reference's: 1e-5 of a number and 1e-6 of the largest, their squares twice that.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastsaddle.kernels.arguments import ALIGNMENT, Array
from fastsaddle.kernels.op import Op

from .layers import Layer, layer_table
from .reference import stacked_perceptron_reference

__all__ = ["Layer", "layer_table", "stacked_perceptron"]


def check_squares(gradients: Tensor, squares: Tensor | None) -> None:
    if squares is not None and gradients.shape[1] % ALIGNMENT:
        raise ValueError(
            f"squares are of gradients with a multiple of {ALIGNMENT} columns, got {gradients.shape[1]}"
        )


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Rows of `columns` columns at least; numbers are small multiples of powers of two, so that no sum before a ReLU is
    rounded across its kink."""

    def small(*shape: int, least: int) -> Tensor:
        return torch.randint(-8, 9, shape, generator=generator) * 2.0**-least

    def arguments(samples: int, widths: tuple[int, ...], wanted: bool) -> dict[str, Any]:
        layers, column = [], 3
        for k, (wide, narrow) in enumerate(pairwise(widths)):
            bias = -1 if k % 2 else column + wide * narrow + 1
            layers.append(Layer(wide, narrow, column, bias, k < len(widths) - 2))
            column += wide * narrow + narrow + 2
        width = max(columns, -(-column // ALIGNMENT) * ALIGNMENT)
        squares = torch.zeros(agents, -(-width // 8192), dtype=torch.float64)
        return {
            "inputs": small(agents, samples, widths[0], least=3),
            "labels": torch.randint(0, widths[-1], (agents, samples), generator=generator),
            "models": small(agents, width, least=5),
            "gradients": torch.zeros(agents, width),
            "losses": torch.zeros(agents),
            "layers": layer_table(layers),
            "squares": squares if wanted else None,
        }

    return {
        "two-layers": arguments(5, (min(columns, 512) // 16, 6, 3), False),
        "squares": arguments(3, (7, 4, 9, 2), True),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    """Of the models: they are read, and their gradients are written."""
    return 2


def tolerance(output: str, arguments: Mapping[str, Any], expected: Tensor) -> Tensor:
    known = expected.nan_to_num()
    allowed = 1e-5 * known.abs() + 1e-6 * known.abs().amax()
    return 2 * allowed if output == "squares" else allowed


stacked_perceptron = Op(
    name="stacked_perceptron",
    arguments=(
        Array("inputs", torch.float32, "agents, samples, features"),
        Array("labels", torch.int64, "agents, samples", about="classes, from 0 on"),
        Array("models", torch.float32, "agents, columns", apart=True),
        Array("gradients", torch.float32, "agents, columns", apart=True, written=True, read=False),
        Array("losses", torch.float32, "agents", written=True, read=False),
        Array(
            "layers",
            torch.int64,
            "count, 5",
            about="of `layer_table`: widths, where tensors begin, and whether ReLU follows",
        ),
        Array(
            "squares",
            torch.float64,
            "agents, (columns + 8191) // 8192",
            written=True,
            read=False,
            optional=True,
            default="None",
            about="sums of squares of whole rows of gradients in slices of 8,192 columns, of which `norm_of_squares` "
            "makes norms; rows are then a multiple of 32 columns wide. None where they are not wanted",
        ),
    ),
    reference=stacked_perceptron_reference,
    rules=(check_squares,),
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
    is_layer=True,
)
