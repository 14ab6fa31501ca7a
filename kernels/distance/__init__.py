"""Every agent's squared distance to a given row, as `consensus` adds it up.

    squared_distance_i = ||x_i - mean||^2

The consensus distance is the square root of their mean (Kong et al. 2021, arXiv:2102.04828). Where agents are spread
over processes each has the mean of all, and some of the rows.

Rounding: float64 sums whose order each implementation chooses: relative error at most 2^-52 sqrt(columns) + 2^-45. On
each backend the bits are those of `consensus` where the mean is, and do not depend on which other rows are given.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Array, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import distance_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    mean = torch.empty(columns).normal_(generator=generator)
    near = draw.rows()
    near.copy_(mean + 1e-3 * draw.rows())
    return {
        name: {
            "x": x,
            "mean": mean.clone(),
            "squared_distance": torch.rand(agents, generator=generator).double(),
        }
        for name, x in (("far", draw.rows()), ("near", near))
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 1 + 1 / arguments["x"].shape[0]


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    return expected * (2.0**-52 * arguments["x"].shape[1] ** 0.5 + 2.0**-45)


distance = Op(
    name="distance",
    arguments=(
        Rows("x"),
        Array("mean", torch.float32, "columns"),
        Array("squared_distance", torch.float64, written=True, read=False),
    ),
    reference=distance_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
