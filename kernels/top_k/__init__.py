"""Some elements of every tensor, at full precision: those of largest magnitude, or those that a random draw chooses.

    indices = columns of the counts[t] elements of tensor t with the largest score, ascending
    values  = x at the indices

The score of an element is |x| (NaN above infinity above all others), or with `random` its 32 bits of Philox4x32-10: key
`seed`, counter (column / 4, agent, step, 1), one word for each of 4 elements. Of equal scores the lower column wins.
Stich et al. 2018 (arXiv:1809.07599, definition 2.1: top-k and rand-k).

Arguments
    x            `[agents, columns]` float32
    buckets      `[tensors, 2]` int32: first column, elements; they cover all columns, each from a multiple of 32 on
    counts       `[tensors]` int32: how many of each tensor's elements are kept, at least one
    random       choose at random instead of by magnitude
    seed         key of the random bits, >= 0
    step         int64, 0-d or `[agents]`
    first_agent  number of the first row's agent
    indices      `[agents, kept]` int32, overwritten; kept is the sum of counts; tensor after tensor
    values       `[agents, kept]` float32, overwritten

Rounding: exact.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.reference import check_buckets, check_draw, check_part
from fastsaddle.kernels.arguments import check_rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import top_k_reference


def check(
    x: torch.Tensor,
    buckets: torch.Tensor,
    counts: torch.Tensor,
    random: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    indices: torch.Tensor,
    values: torch.Tensor,
) -> None:
    check_rows(x, x=x)
    check_buckets(x, buckets, x.shape[1])
    if (
        counts.dtype != torch.int32
        or counts.device != x.device
        or counts.shape != buckets.shape[:1]
        or not counts.is_contiguous()
    ):
        raise ValueError(
            f"counts must be int32 [tensors] = ({buckets.shape[0]},) on {x.device}, "
            f"got {counts.dtype} {tuple(counts.shape)} on {counts.device}"
        )
    check_draw(x, seed, step, first_agent)
    if indices.dim() != 2 or not 1 <= indices.shape[1] <= x.shape[1]:
        raise ValueError(
            f"indices must be [agents, kept] with 1 to {x.shape[1]} columns, got {tuple(indices.shape)}"
        )
    check_part(x, torch.int32, indices.shape[1], indices=indices)
    check_part(x, torch.float32, indices.shape[1], values=values)


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
    schema=(
        "(Tensor x, Tensor buckets, Tensor counts, bool random, int seed, Tensor step, int first_agent, "
        "Tensor(a!) indices, Tensor(b!) values)"
    ),
    reference=top_k_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    overwrites=("indices", "values"),
)
