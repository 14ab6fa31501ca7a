"""One bit an element: the signs of every bucket, and the mean magnitude of its elements as their scale.

    signs = 1 where x < 0        zero counts as positive
    scale = sum |x| / elements   over the bucket, usually a whole tensor

Scaled sign (Karimireddy et al. 2019, arXiv:1901.09847, definition A; Koloskova et al. 2019, arXiv:1907.09356).
`dequantize_add` without codes is its inverse. Signs of padding are 0.

Rounding: signs exact. Scales: float64 sums in any order, divided and rounded to float32: at most one unit in the last
place.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.arguments import BUCKET, BUCKETS
from fastsaddle.kernels.arguments import Array, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import sign_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    spoiled = draw.uneven_rows()
    if agents >= 3:
        spoiled[1, columns - 1], spoiled[2, 0] = float("nan"), float("-inf")

    def arguments(x: torch.Tensor, bucket: int | None) -> dict[str, Any]:
        table = draw.buckets(bucket)
        code = draw.code(8, table, True)
        return {
            "x": draw.without_holes(x, table),
            "buckets": table,
            "bucket": int(table[:, 1].max()),
            "signs": code["signs"],
            "scales": code["scales"],
        }

    return {
        "tensors": arguments(draw.rows(), None),
        "buckets": arguments(draw.uneven_rows(), 512),
        "spoiled": arguments(spoiled, None),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 1 + 1 / 32


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    return expected.abs() * 2.0**-23 if output == "scales" else torch.zeros_like(expected)


sign = Op(
    name="sign",
    arguments=(
        Rows("x"),
        BUCKETS,
        BUCKET,
        Array(
            "signs",
            torch.uint8,
            "agents, columns // 8",
            written=True,
            read=False,
            about="the first element in the lowest bit",
        ),
        Array(
            "scales",
            torch.float32,
            "agents, count",
            written=True,
            read=False,
            about="not finite where an element is not",
        ),
    ),
    reference=sign_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
