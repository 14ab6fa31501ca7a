"""Keep the elements of largest magnitude."""

from dataclasses import dataclass

import torch

from fastsaddle.compressors._selection import check_keep, chosen, kept, scatter_add_
from fastsaddle.compressors._wire import refuse_nonfinite, refuse_other_shape, rows_of
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.optimizer.flat_layout import FlatLayout


@dataclass(frozen=True)
class TopK(Compressor):
    """The k elements of largest magnitude of every tensor, with their indices.

    Stich et al. 2018 (arXiv:1809.07599). k = max(1, int(keep * elements)); among equal magnitudes the first is kept.
    Values are float32 and indices int32: 8 bytes an element. It is biased and draws nothing: `seed` and `step` have no
    effect.

    Args:
        keep: share of the elements that is sent, in (0, 1].

    Raises:
        ValueError: keep is out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> top = fs.compressors.TopK(0.5)
        >>> top.decode(top.encode(torch.tensor([[4.0, -3.0, 2.0, 1.0]])))
        tensor([[ 4., -3.,  0.,  0.]])
    """

    keep: float = 0.1

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
        indices, values = chosen(rows, place, self.keep, False, seed, step, first_agent)
        # what is not finite has the largest magnitude
        refuse_nonfinite(values, rows)
        return Payload((x.shape[0], x.shape[1]), layout, {"values": values, "indices": indices})

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        refuse_other_shape("out", out, payload.shape)
        scatter_add_(out, payload.parts["indices"], payload.parts["values"], weight)

    def wire_bytes(self, dim: int) -> int:
        return 8 * kept(self.keep, dim)

    def delta(self, dim: int) -> float:
        return kept(self.keep, dim) / dim


EXAMPLES = (TopK(0.1), TopK(0.013), TopK(1.0))
