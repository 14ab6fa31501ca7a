"""Stochastic quantization of every agent's row, bucket by bucket, into packed codes and one scale a bucket.

    top   = max |x| of the bucket (norm 0), or its Euclidean norm (norm 1)
    scale = top / levels
    code  = floor(|x| (levels / top) + u), at most levels, with the sign of x;   u = (r + 1/2) / 2^16

QSGD (Alistarh et al. 2017, arXiv:1610.02132, section 3.1), with buckets as in its section 4 and the largest magnitude
in place of the norm where asked. r are 16 bits of Philox4x32-10 with the seed as key and the counter (column / 8,
agent, step, 0): one block serves 8 elements, two in each word, low half first. E code scale = x to
within 2^-15 of a scale.

Codes are fields of `bits` bits, the first in a byte's lowest bits: two's complement where levels < 2^(bits - 1); more
levels are written as magnitudes, with one more bit an element in `signs` (1 is negative). A bucket whose top is below
2^-100 has scale and codes zero; one with an element that is not finite has scale NaN and codes zero.

Rounding: exact for norm 0. Norm 1 sums float64 squares, in any order: scales may differ by one unit in the last
place, and a code by one where its element then falls on the other side of its draw.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.arguments import (
    BITS,
    BUCKET,
    BUCKETS,
    CODES,
    LEVELS,
    NORM,
    SCALES,
    SIGNS,
)
from fastsaddle.kernels._shared.buckets.reference import check_code
from fastsaddle.kernels.arguments import Rows, draws
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import quantize_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    spoiled = draw.uneven_rows()
    if agents >= 3:
        spoiled[1, columns - 1], spoiled[2, 0] = float("nan"), float("-inf")

    def arguments(bits: int, levels: int, x: torch.Tensor, norm: int = 0) -> dict[str, Any]:
        table = draw.buckets(512 if norm == 0 else None)
        return {
            "x": draw.without_holes(x, table),
            "buckets": table,
            "bucket": int(table[:, 1].max()),
            "bits": bits,
            "levels": levels,
            "norm": norm,
            **draw.random(),
            **draw.code(bits, table, levels >= 2 ** (bits - 1)),
        }

    return {
        "8-bit": arguments(8, 127, draw.rows()),
        "4-bit": arguments(4, 7, draw.uneven_rows()),
        "2-bit": arguments(2, 1, spoiled),
        "8-bit-signs": arguments(8, 255, spoiled),
        "4-bit-signs": arguments(4, 15, draw.rows()),
        "2-bit-signs": arguments(2, 3, draw.uneven_rows()),
        "fewer-levels": arguments(8, 100, draw.rows()),
        "euclidean": arguments(8, 255, draw.rows(), 1),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 1 + arguments["bits"] / 32 + (0 if arguments["signs"] is None else 1 / 32)


quantize = Op(
    name="quantize",
    arguments=(
        Rows("x"),
        *(BUCKETS, BUCKET, BITS, LEVELS, NORM),
        *draws(),
        *(CODES, SCALES, SIGNS),
    ),
    reference=quantize_reference,
    rules=(check_code,),
    folder=__name__,
    examples=examples,
    passes=passes,
)
