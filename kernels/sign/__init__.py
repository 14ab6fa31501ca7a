"""One bit an element: the signs of every bucket, and the mean magnitude of its elements as their scale.

    signs = 1 where x < 0        zero counts as positive
    scale = sum |x| / elements   over the bucket, usually a whole tensor

Scaled sign (Karimireddy et al. 2019, arXiv:1901.09847, definition A; Koloskova et al. 2019, arXiv:1907.09356).
`dequantize_add` without codes is its inverse. Signs of padding are 0.

Arguments
    x        `[agents, columns]` float32
    buckets  `[buckets, 2]` int32: first column, elements; they cover all columns, each from a multiple of 32 on
    bucket   no bucket has more elements
    signs    `[agents, columns / 8]` uint8, overwritten; the first element in the lowest bit
    scales   `[agents, buckets]` float32, overwritten; not finite where an element is not

Rounding: signs exact. Scales: float64 sums in any order, divided and rounded to float32: at most one unit in the last
place.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.reference import check_buckets, check_part
from fastsaddle.kernels.arguments import check_rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import sign_reference


def check(
    x: torch.Tensor, buckets: torch.Tensor, bucket: int, signs: torch.Tensor, scales: torch.Tensor
) -> None:
    check_rows(x, x=x)
    check_buckets(x, buckets, bucket)
    check_part(x, torch.uint8, x.shape[1] // 8, signs=signs)
    check_part(x, torch.float32, buckets.shape[0], scales=scales)


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
    schema="(Tensor x, Tensor buckets, int bucket, Tensor(a!) signs, Tensor(b!) scales)",
    reference=sign_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    overwrites=("signs", "scales"),
    tolerance=tolerance,
)
