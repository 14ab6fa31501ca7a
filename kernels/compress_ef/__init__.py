"""Stochastic quantization with error feedback: what a message loses is added to the next one.

    v        = x + residual
    codes, scales, signs = quantize(v)
    residual = v - decoded

Error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847, algorithm 1, without its step size) around
the op `quantize`, whose conventions hold here. A bucket that is not finite leaves a residual of NaN.

Rounding: as in `quantize`; sum and difference round once each.
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

from .reference import compress_ef_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    spoiled = draw.uneven_rows()
    if agents >= 3:
        spoiled[1, columns - 1], spoiled[2, 0] = float("nan"), float("-inf")

    def arguments(bits: int, levels: int, x: torch.Tensor) -> dict[str, Any]:
        table = draw.buckets(512)
        return {
            "x": draw.without_holes(x, table),
            "residual": draw.without_holes(draw.rows(), table),
            "buckets": table,
            "bucket": int(table[:, 1].max()),
            "bits": bits,
            "levels": levels,
            "norm": 0,
            **draw.random(),
            **draw.code(bits, table, levels >= 2 ** (bits - 1)),
        }

    return {
        "8-bit": arguments(8, 127, draw.rows()),
        "4-bit": arguments(4, 7, draw.uneven_rows()),
        "2-bit": arguments(2, 1, spoiled),
        "8-bit-signs": arguments(8, 255, draw.rows()),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 3 + arguments["bits"] / 32 + (0 if arguments["signs"] is None else 1 / 32)


compress_ef = Op(
    name="compress_ef",
    arguments=(
        Rows("x"),
        Rows("residual", written=True, about="what earlier messages lost"),
        *(BUCKETS, BUCKET, BITS, LEVELS, NORM),
        *draws(),
        *(CODES, SCALES, SIGNS),
    ),
    reference=compress_ef_reference,
    rules=(check_code,),
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("residual", "x"),
)
