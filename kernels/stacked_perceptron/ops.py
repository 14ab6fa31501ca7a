"""Perceptrons of stacked agents: mean cross entropy and its gradients in one call, from inputs to the flat buffer.

    h_0 = inputs;  h_l = [relu](h_(l-1) weight_l^T + bias_l);  loss = mean over samples of cross_entropy(h_last, labels)

An agent is taken from its inputs to its gradients before the next one is, so that its activations and model stay in a
core's cache. Samples lie side by side in the registers of a forward pass, columns of a weight in those of a gradient.
Products of float32 are summed in one order for each sum, whatever the number of agents or threads; it differs from the
reference's, and so do the last bits. Where wanted, the squares of a row's gradients are added up while it is in the
cache, in `agent_norm`'s order. On a GPU batched products of torch are used instead.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastsaddle.kernels._shared.squares.reference import SLICE
from fastsaddle.kernels.arguments import ALIGNMENT
from fastsaddle.kernels.op import LIBRARY, forced_backend, is_plain
from fastsaddle.kernels.stacked_perceptron import reference


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


def _check(
    inputs: Tensor,
    labels: Tensor,
    models: Tensor,
    gradients: Tensor,
    losses: Tensor,
    layers: Tensor,
    squares: Tensor | None = None,
) -> None:
    if inputs.dim() != 3 or inputs.dtype != torch.float32 or not inputs.is_contiguous():
        raise ValueError(
            "inputs must be float32 [agents, samples, inputs], contiguous, "
            f"got {inputs.dtype} {tuple(inputs.shape)} with strides {inputs.stride()}"
        )
    if (
        labels.shape != inputs.shape[:2]
        or labels.dtype != torch.int64
        or not labels.is_contiguous()
        or not labels.numel()
    ):
        raise ValueError(
            f"labels must be int64 [agents, samples] = {tuple(inputs.shape[:2])}, none of them 0, contiguous, "
            f"got {labels.dtype} {tuple(labels.shape)} with strides {labels.stride()}"
        )
    for name, rows in (("models", models), ("gradients", gradients)):
        if (
            rows.dim() != 2
            or len(rows) != len(inputs)
            or rows.dtype != torch.float32
            or rows.stride(1) != 1
        ):
            raise ValueError(
                f"{name} must be float32 [agents, columns] with {len(inputs)} rows of adjacent columns, "
                f"got {rows.dtype} {tuple(rows.shape)} with strides {rows.stride()}"
            )
    if models.shape != gradients.shape or gradients.stride(0) < gradients.shape[1]:
        raise ValueError(
            "gradients must be as wide as models, in rows that do not overlap, "
            f"got {tuple(gradients.shape)} with strides {gradients.stride()} for {tuple(models.shape)}"
        )
    if losses.shape != inputs.shape[:1] or losses.dtype != torch.float32 or losses.stride() != (1,):
        raise ValueError(
            f"losses must be float32 [agents] = ({len(inputs)},), contiguous, "
            f"got {losses.dtype} {tuple(losses.shape)} with strides {losses.stride()}"
        )
    if (
        layers.dtype != torch.int64
        or layers.dim() != 2
        or layers.shape[1] != len(Layer._fields)
        or not len(layers)
        or not layers.is_contiguous()
    ):
        raise ValueError(
            f"layers must be of layer_table, got {layers.dtype} {tuple(layers.shape)} with strides {layers.stride()}"
        )
    if squares is not None:
        _check_squares(gradients, squares)


def _check_squares(gradients: Tensor, squares: Tensor) -> None:
    agents, columns = gradients.shape
    if columns % ALIGNMENT:
        raise ValueError(
            f"squares are of gradients with a multiple of {ALIGNMENT} columns, got {columns}"
        )
    wanted = agents, -(-columns // SLICE)
    if squares.shape != wanted or squares.dtype != torch.float64 or not squares.is_contiguous():
        raise ValueError(
            f"squares must be float64 [agents, slices] = {wanted}, contiguous, "
            f"got {squares.dtype} {tuple(squares.shape)} with strides {squares.stride()}"
        )


def _check_places(inputs: Tensor, models: Tensor, layers: Tensor) -> None:
    """Whether layers take what the ones before give, and lie within the rows."""
    given, columns = inputs.shape[2], models.shape[1]
    for layer in map(Layer._make, layers.tolist()):
        ends = layer.weight + layer.outputs * layer.inputs, layer.bias + layer.outputs
        if layer.inputs != given or min(layer[:3]) < 0 or layer.bias < -1 or max(ends) > columns:
            raise ValueError(
                f"layers must take what the ones before give and lie within {columns} columns, got {layer} "
                f"for {given} inputs"
            )
        given = layer.outputs


def _run(*arguments: Tensor | None) -> None:
    _check(*arguments)
    tensors = [t for t in arguments if t is not None]
    if any(not t.is_cpu for t in tensors):
        raise ValueError(
            f"all arguments must lie on the CPU, got {[str(t.device) for t in tensors]}"
        )
    _check_places(arguments[0], arguments[2], arguments[5])
    with torch.no_grad():
        _launch(forced_backend())(*arguments)
    # autograd must notice what was written behind its back
    written = [t for t in (*tensors[3:5], *tensors[6:]) if not t.is_inference()]
    torch.autograd.graph.increment_version(written)


@cache
def _launch(forced: str | None) -> Callable[..., None]:
    """The reference where it is asked for, and where the library cannot be opened."""
    if forced in (None, "native"):
        try:
            from fastsaddle.kernels.stacked_perceptron import native_cpu
        except ImportError:
            if forced is not None:
                raise
        else:
            return native_cpu.launch
    return reference.launch


LIBRARY.define(
    "stacked_perceptron(Tensor inputs, Tensor labels, Tensor models, Tensor(a!) gradients, Tensor(b!) losses, "
    "Tensor layers, Tensor(c!)? squares=None) -> ()"
)
LIBRARY.impl("stacked_perceptron", _run, "CompositeExplicitAutograd")
torch.library.register_fake("fastsaddle::stacked_perceptron", _check, lib=LIBRARY)
_operator = torch.ops.fastsaddle.stacked_perceptron.default


def stacked_perceptron(
    inputs: Tensor,
    labels: Tensor,
    models: Tensor,
    gradients: Tensor,
    losses: Tensor,
    layers: Tensor,
    squares: Tensor | None = None,
) -> None:
    """Every agent's mean loss, and its gradient where the layers' tensors lie; other columns are left as they are.

    Args:
        inputs: `[agents, samples, inputs]` float32, contiguous, on the CPU, as all others.
        labels: `[agents, samples]` int64, contiguous: classes, from 0 on.
        models: `[agents, columns]` float32, rows of adjacent columns.
        gradients: the same shape, overwritten.
        losses: `[agents]` float32, overwritten.
        layers: of `layer_table`.
        squares: `[agents, slices]` float64, overwritten by the sums of squares of whole rows of gradients in slices of
            8,192 columns, of which `norm_of_squares` makes norms; rows are then a multiple of 32 columns wide. None:
            they are not wanted.

    Raises:
        ValueError: other shapes, dtypes or strides, or layers that do not fit the rows or each other.
        RuntimeError: a label that is no class. Nothing has been written then.
    """
    arguments = (inputs, labels, models, gradients, losses, layers, squares)
    (_run if is_plain(arguments) else _operator)(*arguments)
