"""One bit an element: signs, and the mean magnitude of each tensor."""

from dataclasses import dataclass

import torch

from fastsaddle.compressors._wire import (
    bit_ranges,
    largest_of,
    refuse_nonfinite,
    refuse_other_shape,
    rows_of,
    table_of,
    weight_tensor,
    write_back,
)
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.kernels.dequantize_add import dequantize_add
from fastsaddle.kernels.sign import sign
from fastsaddle.optimizer.flat_layout import FlatLayout


@dataclass(frozen=True)
class Sign(Compressor):
    """One bit an element: (||x||_1 / elements) sign(x) of every tensor, with sign(0) = +1.

    Karimireddy et al. 2019 (arXiv:1901.09847); Koloskova et al. 2019 (arXiv:1907.09356). It is biased and draws
    nothing: `seed` and `step` have no effect. Its contraction is ||x||_1^2 / (elements ||x||_2^2), which is never below
    the claimed 1 / elements and about 0.64 for normal x. Under quasi-global momentum of 0.9 agents diverge with it,
    whatever the consensus step: take a smaller momentum, `DSGDm`, or another compressor.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> sign = fs.compressors.Sign()
        >>> sign.decode(sign.encode(torch.tensor([[4.0, -3.0, 2.0, 1.0]])))
        tensor([[ 2.5000, -2.5000,  2.5000,  2.5000]])
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
        table = table_of(place, None, rows.device)
        signs = rows.new_empty(len(rows), rows.shape[1] // 8, dtype=torch.uint8)
        scales = rows.new_empty(len(rows), len(table))
        sign(rows, table, largest_of(place, None), signs, scales)
        refuse_nonfinite(scales, rows)
        parts = {"signs": signs, "scales": scales}
        return Payload((x.shape[0], x.shape[1]), layout, parts, {"signs": bit_ranges(place, 1)})

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        refuse_other_shape("out", out, payload.shape)
        rows, place = rows_of(out, payload.layout)
        dequantize_add(
            None,
            payload.parts["scales"],
            payload.parts["signs"],
            table_of(place, None, rows.device),
            largest_of(place, None),
            1,
            weight_tensor(weight, out),
            rows,
        )
        write_back(rows, out)

    def wire_bytes(self, dim: int) -> int:
        return -(-dim // 8) + 4

    def delta(self, dim: int) -> float:
        return 1 / dim


EXAMPLES = (Sign(),)
