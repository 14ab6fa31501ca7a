"""Euclidean norm of every agent's row: norm_i = sqrt(sum_c (s_ic g_ic)^2), with s = 1 unless a scale is given.

SAM divides by it (Foret et al. 2020, arXiv:2010.01412, eq. 2); with scale = x it is the norm of |x| g that
adaptive SAM divides by (Kwon et al. 2021, arXiv:2102.11600). It also finds non-finite gradients.

Rounding: products s g round to float32; squares and sums are float64, summed within slices of 8192 columns and
then over slices, so a row's norm does not depend on the number of rows. Lanes within a slice may be ordered
differently by each implementation: at most one unit in the last place of float32.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.squares.reference import norm_tolerance
from fastsaddle.kernels.arguments import Array, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import agent_norm_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    spoiled = draw.rows()
    spoiled[0, columns // 2] = float("nan")
    spoiled[-1, columns - 1] = float("inf")
    common = {"scale": None, "gate": None}
    rows = {
        "plain": {"g": draw.rows(), **common},
        "scaled": {"g": draw.rows(), "scale": draw.rows(), "gate": None},
        "gated": {"g": draw.rows(), "scale": None, "gate": draw.norms()},
        "spoiled": {"g": spoiled, **common},
        "large": {"g": draw.rows() * 1e25, **common},
    }
    for arguments in rows.values():
        arguments["norm"] = draw.scalars(0.0, 1.0)
        arguments["skipped"] = torch.arange(agents, dtype=torch.int32)
    return rows


def passes(arguments: Mapping[str, Any]) -> float:
    return 1 if arguments["scale"] is None else 2


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    return norm_tolerance(output, expected)


agent_norm = Op(
    name="agent_norm",
    arguments=(
        Rows("g"),
        Rows("scale", optional=True),
        Array(
            "gate",
            optional=True,
            about="where not finite, it becomes the norm, so that a bad first pass of SAM is still "
            "seen after the second",
        ),
        Array(
            "norm",
            written=True,
            read=False,
            about="not finite where any element is not, or the norm overflows",
        ),
        Array("skipped", torch.int32, written=True, about="one added where norm is not finite"),
    ),
    reference=agent_norm_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
