"""Keep elements chosen at random."""

from dataclasses import dataclass
from functools import cache, partial

import torch

from fastsaddle.compressors._selection import check_keep, chosen, drawn, kept, scatter_add_
from fastsaddle.compressors._wire import (
    refuse_nonfinite,
    refuse_other_shape,
    row_norms,
    rows_of,
    step_tensor,
    tensors_of,
)
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.optimizer.flat_layout import FlatLayout


@dataclass(frozen=True)
class RandomK(Compressor):
    """k elements of every tensor, drawn without replacement; the receiver draws the same indices from the seed.

    Stich et al. 2018 (arXiv:1809.07599). k = max(1, int(keep * elements)). A message is a 64-bit seed and k float32
    values; the indices follow from seed, step and agent, and do not travel.

    Args:
        keep: share of the elements that is sent, in (0, 1].
        unbiased: multiply the values by elements / k, which makes them right on average; it is then no contraction.

    Raises:
        ValueError: keep is out of range.

    Example:
        >>> import fastsaddle as fs
        >>> fs.compressors.RandomK(0.1).wire_bytes(1000)
        408
    """

    keep: float = 0.1
    unbiased: bool = False

    def __post_init__(self) -> None:
        check_keep(self.keep)

    def encode(
        self,
        x: torch.Tensor,
        seed: int = 0,
        step: int | torch.Tensor = 0,
        *,
        layout: FlatLayout | None = None,
        first_agent: int = 0,
    ) -> Payload:
        rows, place = rows_of(x, layout)
        # a norm reads faster than a test of every element; one that overflowed says nothing
        if rows.device.type == "cpu" and not bool(row_norms(rows).isfinite().all()):
            refuse_nonfinite(rows, rows)
        # a copy: messages may be read when the counter has gone on
        number = step_tensor(step, rows.device).clone()
        indices, values = chosen(rows, place, self.keep, True, seed, number, first_agent)
        if self.unbiased:
            values *= _growth(place, self.keep, rows.device)
        seeds = torch.full((len(rows), 1), seed, dtype=torch.int64, device=rows.device)
        parts = {"seed": seeds, "values": values, "indices": indices}
        made = {"indices": partial(drawn, place, self.keep, rows.shape[1], seed, number)}
        return Payload((x.shape[0], x.shape[1]), layout, parts, {"indices": ()}, made)

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        refuse_other_shape("out", out, payload.shape)
        scatter_add_(out, payload.parts["indices"], payload.parts["values"], weight)

    def wire_bytes(self, dim: int) -> int:
        return 8 + 4 * kept(self.keep, dim)

    def message_bytes(self, layout: FlatLayout) -> int:
        # one seed for all tensors
        return 8 + sum(4 * kept(self.keep, elements) for _, elements in tensors_of(layout))

    def delta(self, dim: int) -> float:
        return 0.0 if self.unbiased else kept(self.keep, dim) / dim

    def omega(self, dim: int) -> float | None:
        return dim / kept(self.keep, dim) - 1 if self.unbiased else None


# kept for good: a captured graph knows nothing but its address
@cache
def _growth(place: FlatLayout, keep: float, device: torch.device) -> torch.Tensor:
    """elements / k of the tensor of each value, float32 `[kept]`."""
    factors = [(n / kept(keep, n), kept(keep, n)) for _, n in tensors_of(place)]
    values = [factor for factor, count in factors for _ in range(count)]
    return torch.tensor(values, dtype=torch.float32, device=device)


EXAMPLES = (RandomK(0.1), RandomK(0.3, unbiased=True), RandomK(1.0))
