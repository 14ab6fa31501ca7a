"""One gossip round with a dense mixing matrix: out = W x. For graphs whose degree makes neighbor lists slower.

Xiao and Boyd 2004 (fast linear iterations for distributed averaging), one multiplication by the mixing matrix.

Rounding: products of `agents` terms in an order that each implementation chooses. The difference of two results is
at most 4 eps sqrt(agents) of the sum's absolute terms, eps = 2^-24; no reduced precision (TF32) is used.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Array, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import mix_dense_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    W = torch.rand(agents, agents, generator=generator)
    return {"random": {"x": draw.rows(), "W": W / W.sum(1, keepdim=True), "out": draw.rows()}}


def passes(arguments: Mapping[str, Any]) -> float:
    return 2


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    terms = arguments["W"].abs() @ arguments["x"].abs()
    return 4 * 2.0**-24 * arguments["W"].shape[0] ** 0.5 * terms


mix_dense = Op(
    name="mix_dense",
    arguments=(
        Rows("x"),
        Array(
            "W",
            torch.float32,
            "agents, agents",
            about="row i holds the weights that agent i gives to all",
        ),
        Rows("out", written=True, read=False, about="shares no memory with x"),
    ),
    reference=mix_dense_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
    apart=("out", "x"),
)
