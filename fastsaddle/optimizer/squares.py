"""Sums of squares of gradients that were added up where these were written, so that norms need not read them."""

import torch

from fastsaddle.kernels._shared.squares.reference import SLICE


class Squares:
    """Of all gradients as they are now; whoever writes any of them later voids them.

    Args:
        g: the gradients, `[agents, stride]`.
        sums: `[agents, slices]` float64, as the op `collect_gradients` gives them.
    """

    def __init__(self, g: torch.Tensor, sums: torch.Tensor) -> None:
        self._g, self._sums, self._written = g, sums, g._version

    def of(self, g: torch.Tensor) -> torch.Tensor | None:
        """The sums, where they are those of `g` as it is now."""
        is_it = g is self._g and g._version == self._written
        return self._sums if is_it else None


def empty_sums(g: torch.Tensor) -> torch.Tensor:
    """Memory for the sums of such gradients."""
    agents, columns = g.shape
    return g.new_empty(agents, -(-columns // SLICE), dtype=torch.float64)
