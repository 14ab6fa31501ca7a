"""gather_batch through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function

_symbol = function("fs_gather_batch", [*[POINTER] * 8, *[INT] * 5])


def launch(
    samples: torch.Tensor,
    indices: torch.Tensor,
    out: torch.Tensor,
    table: torch.Tensor | None = None,
    fill: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    flips: torch.Tensor | None = None,
) -> None:
    levels, numbers = (None, samples) if table is None else (samples, None)
    call(
        _symbol,
        *map(address, (levels, numbers, indices, out, table, fill, offsets, flips)),
        indices.numel(),
        *samples.shape,
    )
