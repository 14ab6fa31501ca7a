"""Send everything: the compressor that compresses nothing."""

from dataclasses import dataclass

import torch

from fastsaddle.compressors._wire import (
    bit_ranges,
    refuse_nonfinite,
    refuse_other_shape,
    rows_of,
    weight_tensor,
)
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.optimizer.flat_layout import FlatLayout


@dataclass(frozen=True)
class Identity(Compressor):
    """Rows as they are, 4 bytes an element: no compression.

    Optimizers treat it as no compressor: they send whole models and keep no public copies.

    Example:
        >>> import fastsaddle as fs
        >>> fs.compressors.Identity().wire_bytes(1000)
        4000
    """

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
        refuse_nonfinite(rows, rows)
        values = rows.detach().clone(memory_format=torch.contiguous_format)
        travels = {"values": bit_ranges(place, 32)}
        return Payload((x.shape[0], x.shape[1]), layout, {"values": values}, travels)

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        refuse_other_shape("out", out, payload.shape)
        values = payload.parts["values"]
        factor = weight_tensor(weight, out).reshape(-1, 1)
        columns = min(out.shape[1], values.shape[1])
        out[:, :columns] += factor * values[:, :columns]

    def wire_bytes(self, dim: int) -> int:
        return 4 * dim

    def omega(self, dim: int) -> float | None:
        return 0.0


EXAMPLES = (Identity(),)
