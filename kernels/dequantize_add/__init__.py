"""The values of packed codes, added with a weight: out = out + weight value, value = code scale.

The inverse of `quantize` and of `sign`, whose conventions and sources (Alistarh et al. 2017, Karimireddy et al. 2019)
hold here. Without codes, a value is its bucket's scale with the sign in `signs`. Columns of `out` between buckets are
left as they are. Codes, scales and signs may be those in the messages that have arrived.

Rounding: exact; value, product and sum round once each.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.arguments import BUCKET, BUCKETS
from fastsaddle.kernels.arguments import Array, Int, Rate, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import dequantize_add_reference


def check_code(codes: torch.Tensor | None, signs: torch.Tensor | None, bits: int) -> None:
    if bits not in ((1,) if codes is None else (2, 4, 8)):
        raise ValueError(f"bits must be 2, 4 or 8 with codes, 1 without, got {bits}")
    if codes is None and signs is None:
        raise ValueError("codes or signs must be given, got neither")


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(bits: int, has_signs: bool, weight: torch.Tensor) -> dict[str, Any]:
        table = draw.buckets(512 if bits > 1 else None)
        code = draw.code(bits, table, has_signs)
        return {
            "codes": code["codes"] if bits > 1 else None,
            "scales": code["scales"],
            "signs": code["signs"],
            "buckets": table,
            "bucket": int(table[:, 1].max()),
            "bits": bits,
            "weight": weight,
            "out": draw.rows(),
        }

    return {
        "8-bit": arguments(8, False, draw.scalar(-1.0, 1.0)),
        "4-bit": arguments(4, False, draw.scalars(-1.0, 1.0)),
        "2-bit": arguments(2, False, torch.ones(())),
        "8-bit-signs": arguments(8, True, draw.scalar(-1.0, 1.0)),
        "4-bit-signs": arguments(4, True, draw.scalar(-1.0, 1.0)),
        "2-bit-signs": arguments(2, True, draw.scalars(-1.0, 1.0)),
        "signs": arguments(1, True, draw.scalar(-1.0, 1.0)),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    codes = 0 if arguments["codes"] is None else arguments["bits"] / 32
    return 2 + codes + (0 if arguments["signs"] is None else 1 / 32)


dequantize_add = Op(
    name="dequantize_add",
    arguments=(
        Array("codes", torch.uint8, "agents, columns * bits // 8", optional=True, apart=True),
        Array("scales", torch.float32, "agents, count", apart=True),
        Array(
            "signs",
            torch.uint8,
            "agents, columns // 8",
            optional=True,
            apart=True,
            about="None where codes hold the sign",
        ),
        BUCKETS,
        BUCKET,
        Int("bits", about="2, 4 or 8; 1 without codes"),
        Rate("weight"),
        Rows("out", written=True),
    ),
    reference=dequantize_add_reference,
    rules=(check_code,),
    folder=__name__,
    examples=examples,
    passes=passes,
)
