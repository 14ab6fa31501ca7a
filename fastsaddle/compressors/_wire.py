"""How rows become messages: tables of buckets for the ops, and which bytes of what they write are sent."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from math import prod

import torch

from fastsaddle.kernels.agent_norm import agent_norm
from fastsaddle.optimizer.flat_layout import TENSOR, FlatLayout, round_up

# rows that a message names
MOST_LISTED = 10


def rows_of(x: torch.Tensor, layout: FlatLayout | None) -> tuple[torch.Tensor, FlatLayout]:
    """x as ops take it, its columns a multiple of 32, and the layout of that; copies only to pad.

    Raises:
        ValueError: x is not float32 `[agents, columns]` of the layout, or the layout has no elements.
    """
    if x.dim() != 2 or x.dtype != torch.float32 or not x.numel():
        raise ValueError(
            f"x must be float32 [agents, columns], not empty, got {x.dtype} {tuple(x.shape)}"
        )
    if layout is None:
        dim = x.shape[1]
        width = round_up(dim, TENSOR)
        layout = FlatLayout((torch.Size((dim,)),), (0,), ((0, width),), width)
    elif x.shape[1] != layout.stride:
        raise ValueError(f"x must have the {layout.stride} columns of its layout, got {x.shape[1]}")
    width = max((end for _, end in layout.ranges), default=0)
    if not width:
        raise ValueError("a layout must hold at least one element, got none")
    if x.shape[1] < width:
        x = torch.nn.functional.pad(x, (0, width - x.shape[1]))
    x = x[:, :width]
    # ops take neither rows that lie askew nor one row that stands for several
    if x.stride(1) != 1 or (x.shape[0] > 1 and (x.stride(0) % TENSOR or x.stride(0) < width)):
        x = x.contiguous()
    return x, layout


def write_back(rows: torch.Tensor, out: torch.Tensor) -> None:
    """Where `rows_of(out, layout)` had to copy, copy `rows` back to `out`."""
    if rows.data_ptr() != out.data_ptr():
        columns = min(rows.shape[1], out.shape[1])
        out[:, :columns] = rows[:, :columns]


@lru_cache(maxsize=256)
def tensors_of(layout: FlatLayout) -> tuple[tuple[int, int], ...]:
    """(first column, elements) of every tensor that is not empty."""
    sizes = [(offset, prod(s)) for s, offset in zip(layout.shapes, layout.offsets, strict=True)]
    return tuple(place for place in sizes if place[1])


# kept for good: a captured graph knows nothing but its address
@cache
def table_of(layout: FlatLayout, bucket: int | None, device: torch.device) -> torch.Tensor:
    """The ops' table, int32 `[buckets, 2]`: tensors, or pieces of at most `bucket` elements of them."""
    table = [
        (first + start, min(elements - start, bucket or elements))
        for first, elements in tensors_of(layout)
        for start in range(0, elements, bucket or elements)
    ]
    return torch.tensor(table, dtype=torch.int32, device=device)


def largest_of(layout: FlatLayout, bucket: int | None) -> int:
    """Elements of the largest bucket of `table_of`."""
    largest = max(elements for _, elements in tensors_of(layout))
    return largest if bucket is None else min(largest, bucket)


@lru_cache(maxsize=256)
def bit_ranges(layout: FlatLayout, bits: int) -> tuple[tuple[int, int], ...]:
    """Bytes of a packed row that hold elements of `bits` bits: each tensor ends with a whole byte.

    Tensors that fill their columns make one range with those behind them.
    """
    found: list[tuple[int, int]] = []
    for column, elements in tensors_of(layout):
        first = column * bits // 8
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, -(-(column + elements) * bits // 8)))
    return tuple(found)


@lru_cache(maxsize=1024)
def cuts(ranges: tuple[tuple[int, int], ...], width: int) -> tuple[int, ...]:
    """Sizes that cut a row of `width` bytes into what is between ranges and the ranges, in turn, holes at both ends."""
    sizes: tuple[int, ...] = ()
    at = 0
    for first, end in ranges:
        sizes += (first - at, end - first)
        at = end
    return (*sizes, width - at)


def runs(agents: Sequence[int]) -> list[tuple[int, int]]:
    """(first one, how many) of each run of numbers that follow one another."""
    found: list[tuple[int, int]] = []
    for agent in agents:
        first, count = found[-1] if found else (agent, 0)
        if agent == first + count:
            found[-1:] = [(first, count + 1)]
        else:
            found.append((agent, 1))
    return found


def step_tensor(step: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """The ops' `step`: int64 on the device. They refuse a tensor that is not."""
    if isinstance(step, torch.Tensor):
        return step
    return torch.tensor(step, dtype=torch.int64, device=device)


def weight_tensor(weight: float | torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """A weight for the rows of `out` as the ops take it, float32, 0-d or `[agents]`; ValueError for others."""
    if isinstance(weight, (int, float)):
        # filled in by the device: a copy from the host would wait for it
        return torch.full((), weight, dtype=torch.float32, device=out.device)
    factor = torch.as_tensor(weight, dtype=torch.float32, device=out.device)
    if factor.shape not in ((), out.shape[:1]):
        raise ValueError(
            f"weight must be a number, 0-d or [agents] = ({out.shape[0]},), got {tuple(factor.shape)}"
        )
    return factor


def refuse_other_shape(name: str, rows: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `rows` is float32 and has the shape of what is, or was, encoded."""
    if rows.dtype != torch.float32 or rows.shape != shape:
        raise ValueError(
            f"{name} must be float32 and shaped like x, {tuple(shape)}, got {rows.dtype} {tuple(rows.shape)}"
        )


def row_norms(rows: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
    """Euclidean norms `[agents]` of rows as ops take them; not finite where an element is not, or on overflow.

    With `scale`, rows like them, the norms are those of |scale| rows.
    """
    norm = torch.empty(rows.shape[0], dtype=torch.float32, device=rows.device)
    if not rows.shape[1]:
        return norm.zero_()
    agent_norm(rows, scale, None, norm, norm.new_zeros(rows.shape[0], dtype=torch.int32))
    return norm


class NonFiniteError(ValueError):
    """NaN or infinity where only finite numbers can be worked with."""


def refuse_nonfinite(
    numbers: torch.Tensor, rows: torch.Tensor | Callable[[], torch.Tensor]
) -> None:
    """Raise NonFiniteError where `numbers`, made from `rows`, are not finite; on a GPU nothing is read.

    Args:
        numbers: `[agents, ...]`: what is sent, or norms.
        rows: `[agents, columns]`: what was to be compressed, or a call that makes it.
    """
    if numbers.device.type != "cpu" or bool(numbers.isfinite().all()):
        return
    bad = ~(rows() if callable(rows) else rows).isfinite().all(1)
    if bad.any():
        raise NonFiniteError(
            f"only finite values can be compressed, got NaN or infinity in rows {listed(bad)}"
        )
    bad = ~numbers.isfinite().flatten(1).all(1)
    raise NonFiniteError(
        f"values are too large to be compressed: what is sent overflows in rows {listed(bad)}"
    )


def listed(which: torch.Tensor, first: int = 0) -> str:
    """Numbers, from `first` on, of the rows for which `which` `[rows]` holds: ten, and how many more there are."""
    numbers = (which.nonzero().flatten() + first).tolist()
    more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
    return f"{numbers[:MOST_LISTED]}{more}"
