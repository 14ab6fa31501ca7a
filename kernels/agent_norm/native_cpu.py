"""agent_norm through the compiled CPU library."""

import torch

from fastsaddle.kernels.native import INT, POINTER, address, call, function, rows

_symbol = function(
    "fs_agent_norm", [POINTER, INT, POINTER, INT, POINTER, POINTER, POINTER, INT, INT]
)


def launch(
    g: torch.Tensor,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    norm: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    call(_symbol, *rows(g), *rows(scale), address(gate), address(norm), address(skipped), *g.shape)
