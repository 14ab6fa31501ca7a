"""Euclidean norms from sums of squares that are known: norm_i = sqrt(sum_s squares_is) for every agent i.

The second half of `agent_norm`, with its bits where the sums are those of its slices, as `collect_gradients` and
`stacked_perceptron` write them.

Rounding: sums over slices are float64, in order natively and otherwise on a GPU: at most one unit in the last place of
float32.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.squares.reference import norm_tolerance
from fastsaddle.kernels.arguments import Array
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import norm_of_squares_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    slices = columns // 32
    spoiled = draw.rows()[:, :slices].double().square()
    spoiled[0, slices // 2], spoiled[-1, slices - 1] = float("nan"), float("inf")
    rows: dict[str, dict[str, Any]] = {
        "plain": {"squares": draw.rows()[:, :slices].double().square(), "gate": None},
        "gated": {"squares": draw.rows()[:, :slices].double().square(), "gate": draw.norms()},
        "spoiled": {"squares": spoiled, "gate": None},
    }
    for arguments in rows.values():
        arguments["norm"] = draw.scalars(0.0, 1.0)
        arguments["skipped"] = torch.arange(agents, dtype=torch.int32)
    return rows


def passes(arguments: Mapping[str, Any]) -> float:
    return 0


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    return norm_tolerance(output, expected)


norm_of_squares = Op(
    name="norm_of_squares",
    arguments=(
        Array("squares", torch.float64, "agents, slices"),
        Array("gate", optional=True, about="where not finite, it becomes the norm"),
        Array("norm", written=True, read=False),
        Array("skipped", torch.int32, written=True, about="one added where norm is not finite"),
    ),
    reference=norm_of_squares_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
