"""Where each parameter lies in an agent's row: one padded row holds all parameters of one agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

# tensors start at multiples of this many elements, and rows are a multiple of ROW elements long
TENSOR, ROW = 32, 128


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class FlatLayout:
    """Offsets of parameters in a row; groups of parameters are contiguous column ranges.

    Attributes:
        shapes: one agent's shape of each parameter, in row order.
        offsets: first column of each parameter.
        ranges: column range `(first, end)` of each group.
        stride: columns of a row, padding included.
    """

    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    stride: int

    @classmethod
    def pack(cls, groups: Sequence[Sequence[Sequence[int]]]) -> "FlatLayout":
        """Lay out groups of parameter shapes one after the other."""
        shapes, offsets, ranges, column = [], [], [], 0
        for group in groups:
            first = column
            for shape in group:
                shapes.append(torch.Size(shape))
                offsets.append(column)
                column = round_up(column + prod(shape), TENSOR)
            ranges.append((first, column))
        # an odd number of 128-element pieces keeps the rows of all agents out of each other's cache sets
        pieces = max(1, round_up(column, ROW) // ROW) | 1
        return cls(tuple(shapes), tuple(offsets), tuple(ranges), pieces * ROW)

    @property
    def dim(self) -> int:
        """Parameters of one agent, padding not counted."""
        return sum(prod(shape) for shape in self.shapes)

    def group(self, index: int) -> "FlatLayout":
        """The layout of group `index` alone, in a row that has no other columns."""
        first, end = self.ranges[index]
        mine = [
            (shape, offset - first)
            for shape, offset in zip(self.shapes, self.offsets, strict=True)
            if first <= offset < end and shape.numel()
        ]
        shapes, offsets = zip(*mine, strict=True) if mine else ((), ())
        return FlatLayout(shapes, offsets, ((0, end - first),), end - first)

    def allocate(
        self, agents: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """A zeroed `[agents, stride]` buffer: padding stays zero for ever."""
        return torch.zeros(agents, self.stride, dtype=dtype, device=device)

    def views(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each parameter's part of `rows` `[agents, stride]`, as `[agents, *shape]`."""
        return [
            rows[:, offset : offset + prod(shape)].view(rows.shape[0], *shape)
            for shape, offset in zip(self.shapes, self.offsets, strict=True)
        ]
