"""Euclidean norms from sums of squares that are known: norm_i = sqrt(sum_s squares_is) for every agent i.

The second half of `agent_norm`, with its bits where the sums are those of its slices, as `collect_gradients` and
`stacked_perceptron` write them.

Arguments
    squares  `[agents, slices]` float64
    gate     `[agents]` float32 or None: where not finite, it becomes the norm
    norm     `[agents]` float32, overwritten
    skipped  `[agents]` int32, one added where norm is not finite

Rounding: sums over slices are float64, in order natively and otherwise on a GPU: at most one unit in the last place of
float32.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.squares.reference import norm_tolerance
from fastsaddle.kernels.arguments import check_per_agent
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import norm_of_squares_reference


def check(
    squares: torch.Tensor, gate: torch.Tensor | None, norm: torch.Tensor, skipped: torch.Tensor
) -> None:
    if squares.dtype != torch.float64 or squares.dim() != 2 or not squares.is_contiguous():
        raise ValueError(
            f"squares must be float64 [agents, slices], contiguous, got {squares.dtype} {tuple(squares.shape)} "
            f"with strides {squares.stride()}"
        )
    if 0 in squares.shape:
        raise ValueError(
            f"squares needs at least one agent and one slice, got {tuple(squares.shape)}"
        )
    check_per_agent(squares, torch.float32, gate=gate, norm=norm)
    check_per_agent(squares, torch.int32, skipped=skipped)


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    slices = columns // 32
    spoiled = draw.rows()[:, :slices].double().square()
    spoiled[0, slices // 2], spoiled[-1, slices - 1] = float("nan"), float("inf")
    rows = {
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
    schema="(Tensor squares, Tensor? gate, Tensor(a!) norm, Tensor(b!) skipped)",
    reference=norm_of_squares_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    overwrites=("norm",),
    tolerance=tolerance,
)
