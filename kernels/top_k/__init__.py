"""Some elements of every tensor, at full precision: those of largest magnitude, or those that a random draw chooses.

    indices = columns of the counts[t] elements of tensor t with the largest score, ascending
    values  = x at the indices

The score of an element is |x| (NaN above infinity above all others), or with `random` its 32 bits of Philox4x32-10: key
`seed`, counter (column / 4, agent, step, 1), one word for each of 4 elements. Of equal scores the lower column wins.
Stich et al. 2018 (arXiv:1809.07599, definition 2.1: top-k and rand-k).

Rounding: exact.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.arguments import BUCKETS
from fastsaddle.kernels.arguments import Array, Flag, Rows, draws
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import top_k_reference


def check_kept(x: torch.Tensor, indices: torch.Tensor) -> None:
    if indices.shape[1] > x.shape[1]:
        raise ValueError(
            f"indices must be [agents, kept] with 1 to {x.shape[1]} columns, got {tuple(indices.shape)}"
        )


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    spoiled = draw.uneven_rows()
    if agents >= 3:
        spoiled[1, columns - 1], spoiled[2, 0] = float("nan"), float("-inf")
    # many equal magnitudes, so that the rule for ties is needed
    coarse = draw.rows().mul(2).round()

    def arguments(x: torch.Tensor, keep: float, random: bool) -> dict[str, Any]:
        table = draw.buckets(None)
        counts = (table[:, 1] * keep).int().clamp(min=1)
        shape = (agents, int(counts.sum()))
        return {
            "x": draw.without_holes(x, table),
            "buckets": table,
            "counts": counts,
            "random": random,
            **draw.random(),
            "indices": torch.zeros(shape, dtype=torch.int32),
            "values": torch.zeros(shape),
        }

    return {
        "magnitude": arguments(draw.rows(), 0.1, False),
        "random": arguments(draw.rows(), 0.1, True),
        "ties": arguments(coarse, 0.3, False),
        "spoiled": arguments(spoiled, 0.05, False),
        "all": arguments(draw.rows(), 1.0, True),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    agents, columns = arguments["x"].shape
    return 1 + 2 * arguments["indices"].numel() / (agents * columns)


top_k = Op(
    name="top_k",
    arguments=(
        Rows("x"),
        BUCKETS,
        Array(
            "counts",
            torch.int32,
            "count",
            about="how many of each tensor's elements are kept, at least one",
        ),
        Flag("random", about="choose at random instead of by magnitude"),
        *draws(),
        Array(
            "indices",
            torch.int32,
            "agents, kept",
            written=True,
            read=False,
            about="kept is the sum of counts; tensor after tensor",
        ),
        Array("values", torch.float32, "agents, kept", written=True, read=False),
    ),
    reference=top_k_reference,
    rules=(check_kept,),
    folder=__name__,
    examples=examples,
    passes=passes,
)
