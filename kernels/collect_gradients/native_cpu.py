"""collect_gradients through the compiled CPU library."""

from collections.abc import Sequence
from ctypes import addressof

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function("fs_collect_gradients", [*[POINTER] * 4, INT, POINTER, INT, POINTER, INT, INT])


def launch(
    g: torch.Tensor,
    parts: Sequence[torch.Tensor],
    starts: Sequence[int],
    squares: torch.Tensor | None,
) -> None:
    agents, number = len(g), len(parts)
    lists = (
        (POINTER * number)(*[part.data_ptr() for part in parts]),
        (INT * number)(*starts),
        (INT * number)(*[part.numel() // agents for part in parts]),
        (INT * number)(*[part.stride(0) for part in parts]),
    )
    call(_symbol, *map(addressof, lists), number, *rows(g), address(squares), *g.shape)
