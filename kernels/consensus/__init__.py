"""Mean over agents and every agent's squared distance to it, in one pass.

    mean = (1/n) sum_i x_i ;   squared_distance_i = ||x_i - mean||^2

The consensus distance is sqrt(mean_i squared_distance_i) (Kong et al. 2021, arXiv:2102.04828).

Rounding: the mean is exact: a float64 sum in agent order, divided, rounded once to float32. Distances are float64
sums whose order each implementation chooses: relative error at most 2^-52 sqrt(columns) + 2^-45.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Array, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import consensus_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    near = draw.rows()
    near.copy_(near[:1] + 1e-3 * draw.rows())
    outputs = {"mean": torch.rand(columns, generator=generator)}
    return {
        name: {
            "x": x,
            **outputs,
            "squared_distance": torch.rand(agents, generator=generator).double(),
        }
        for name, x in (("far", draw.rows()), ("near", near))
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 1 + 1 / arguments["x"].shape[0]


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    allowed = 2.0**-52 * arguments["x"].shape[1] ** 0.5 + 2.0**-45
    return torch.zeros_like(expected) if output == "mean" else expected * allowed


consensus = Op(
    name="consensus",
    arguments=(
        Rows("x"),
        Array("mean", torch.float32, "columns", written=True, read=False),
        Array("squared_distance", torch.float64, written=True, read=False),
    ),
    reference=consensus_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
