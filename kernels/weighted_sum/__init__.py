"""Weighted sums of chosen rows: out_i = sum_k weights_ik rows_{sources_ik}.

The mean of self- and cross-gradients of NGM and N-SADDLe (Aketi et al. 2022, arXiv:2209.14390, algorithm 1: the
gradients taken at agent i's model, by itself and by its neighbors), and RelaySum's messages (Vogels et al. 2021,
arXiv:2110.04175, equation 3). mix_neighbors is the same for lists that start with an agent's own row.

Arguments
    rows     `[rows, columns]` float32: for example the gradients of all agents at one model after the other
    out      `[agents, columns]` float32, overwritten; shares no memory with rows
    sources  `[agents, width]` int32: numbers of rows, at least one, in the order of summation, padded with -1
    weights  `[agents, width]` float32

Rounding: exact, each product and each sum rounds once, summed in the list's order.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import check_neighbors, check_rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import weighted_sum_reference


def check(
    rows: torch.Tensor, out: torch.Tensor, sources: torch.Tensor, weights: torch.Tensor
) -> None:
    check_rows(rows, rows=rows)
    check_rows(out, out=out)
    if rows.shape[1] != out.shape[1] or rows.device != out.device:
        raise ValueError(
            f"out must have the {rows.shape[1]} columns of rows, on {rows.device}, "
            f"got {tuple(out.shape)} on {out.device}"
        )
    check_neighbors(out, sources, weights, called="sources")


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    result = {}
    for times in (1, 3):
        several = Draw(times * agents, columns, generator)
        sources, weights = several.lists(times)
        # any row may come first, and none need be an agent's own
        mixed = torch.randperm(times * agents, generator=generator).int()
        picked = torch.where(sources >= 0, mixed[sources.clamp(min=0).long()], sources)
        result[f"rows-{times}"] = {
            "rows": several.rows(),
            "out": draw.rows(),
            "sources": picked[:agents].contiguous(),
            "weights": weights[:agents].contiguous(),
        }
    return result


def passes(arguments: Mapping[str, Any]) -> float:
    return arguments["rows"].shape[0] / arguments["out"].shape[0] + 1


weighted_sum = Op(
    name="weighted_sum",
    schema="(Tensor rows, Tensor(a!) out, Tensor sources, Tensor weights)",
    reference=weighted_sum_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    overwrites=("out",),
    apart=("out", "rows"),
)
