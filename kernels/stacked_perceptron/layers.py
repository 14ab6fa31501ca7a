"""Layers of a perceptron, and the table by which the op is told where their tensors lie."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """A linear layer: its widths, the columns of a row at which its tensors begin, and whether ReLU follows.

    `weight` is `[outputs, inputs]`; a `bias` of -1 is none.
    """

    inputs: int
    outputs: int
    weight: int
    bias: int
    relu: bool


def layer_table(layers: Sequence[Layer]) -> Tensor:
    """Layers as `stacked_perceptron` takes them, int64 `[layers, 5]`.

    Raises:
        ValueError: there is none, or one takes other widths than the layer before gives.
    """
    if not layers:
        raise ValueError("a perceptron needs at least one layer, got none")
    for before, layer in pairwise(layers):
        if before.outputs != layer.inputs:
            raise ValueError(f"a layer must take what the one before gives, got {before}, {layer}")
    return torch.tensor(layers, dtype=torch.int64, device="cpu")
