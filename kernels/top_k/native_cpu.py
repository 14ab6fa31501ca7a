"""top_k through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows, scalar

_symbol = function(
    "fs_top_k",
    [*[POINTER, INT] * 2, POINTER, *[INT] * 5, POINTER, INT, INT, POINTER, POINTER],
)


def launch(
    x: torch.Tensor,
    buckets: torch.Tensor,
    counts: torch.Tensor,
    random: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    indices: torch.Tensor,
    values: torch.Tensor,
) -> None:
    call(
        _symbol,
        *rows(x),
        address(buckets),
        buckets.shape[0],
        address(counts),
        *x.shape,
        indices.shape[1],
        random,
        seed,
        *scalar(step),
        first_agent,
        address(indices),
        address(values),
    )
