"""Gradients of stacked perceptrons through the compiled CPU library."""

from torch import Tensor

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function(
    "fs_stacked_perceptron",
    [*[POINTER] * 2, *[POINTER, INT] * 2, *[POINTER] * 2, INT, POINTER, *[INT] * 3],
)


def launch(
    inputs: Tensor,
    labels: Tensor,
    models: Tensor,
    gradients: Tensor,
    losses: Tensor,
    layers: Tensor,
    squares: Tensor | None = None,
) -> None:
    call(
        _symbol,
        address(inputs),
        address(labels),
        *rows(models),
        *rows(gradients),
        address(losses),
        address(layers),
        len(layers),
        address(squares),
        gradients.shape[1],
        *labels.shape,
    )
