"""Gradients that autograd hands out one by one, into the flat buffer by one op, with their squares where wanted."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.kernels.collect_gradients import MOST_PARTS, collect_gradients
from fastsaddle.optimizer.squares import Squares, empty_sums


class Collected:
    """A pass's gradients; leaving the `with` block hands their squares to `stack.rows`, where they are wanted.

    Args:
        stack: whose rows are written.
    """

    def __init__(self, stack: AgentStack) -> None:
        self.stack = stack
        self._sums: Tensor | None = None

    def __enter__(self) -> None:
        rows = self.stack.rows
        is_wanted = rows.wants_squares and len(rows.parameters) <= MOST_PARTS
        self._sums = empty_sums(rows.g) if is_wanted else None

    def __exit__(self, error: object, *more: object) -> None:
        rows = self.stack.rows
        if self._sums is not None and error is None:
            rows.squares = Squares(rows.g, self._sums)
        self._sums = None

    @torch.no_grad()
    def write(self, part: slice, gradients: Mapping[str, Tensor | None]) -> None:
        """Overwrite the gradients of the agents of `part`, with zeros where there is none.

        Args:
            part: of the agents.
            gradients: by the parameters' names, `[agents of the part, *shape]`.
        """
        rows = self.stack.rows
        offsets = dict(zip(map(id, rows.parameters), rows.layout.offsets, strict=True))
        found: list[tuple[int, Tensor]] = []
        views = dict(self.stack.named_gradients())
        for name, p in self.stack.named_parameters():
            gradient = gradients.get(name)
            if gradient is None or not gradient.numel():
                views[name][part].zero_()
            else:
                whole = gradient if gradient[0].is_contiguous() else gradient.contiguous()
                found.append((offsets[id(p)], whole))
        found.sort(key=lambda one: one[0])
        sums = None if self._sums is None else self._sums[part]
        if sums is not None and not found:
            sums.zero_()
        for first in range(0, len(found), MOST_PARTS):
            starts, parts = zip(*found[first : first + MOST_PARTS], strict=True)
            collect_gradients(rows.g[part], list(parts), list(starts), sums)
