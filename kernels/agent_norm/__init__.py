"""Euclidean norm of every agent's row: norm_i = sqrt(sum_c (s_ic g_ic)^2), with s = 1 unless a scale is given.

SAM divides by it (Foret et al. 2020, arXiv:2010.01412, eq. 2); with scale = x it is the norm of |x| g that
adaptive SAM divides by (Kwon et al. 2021, arXiv:2102.11600). It also finds non-finite gradients.

Arguments
    g        `[agents, columns]` float32
    scale    `[agents, columns]` float32 or None
    gate     `[agents]` float32 or None: where not finite, it becomes the norm, so that a bad first pass
             of SAM is still seen after the second
    norm     `[agents]` float32, overwritten; not finite where any element is not (or the norm overflows)
    skipped  `[agents]` int32, one added where norm is not finite

Rounding: products s g round to float32; squares and sums are float64, summed within slices of 8192 columns and
then over slices, so a row's norm does not depend on the number of rows. Lanes within a slice may be ordered
differently by each implementation: at most one unit in the last place of float32.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.squares.reference import norm_tolerance
from fastsaddle.kernels.arguments import check_per_agent, check_rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import agent_norm_reference


def check(
    g: torch.Tensor,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    norm: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    check_rows(g, g=g, scale=scale)
    check_per_agent(g, torch.float32, gate=gate, norm=norm)
    check_per_agent(g, torch.int32, skipped=skipped)


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
    schema="(Tensor g, Tensor? scale, Tensor? gate, Tensor(a!) norm, Tensor(b!) skipped)",
    reference=agent_norm_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    overwrites=("norm",),
    tolerance=tolerance,
)
