"""Weighted sums of chosen rows: out_i = sum_k weights_ik rows_{sources_ik}.

The mean of self- and cross-gradients of NGM and N-SADDLe (Aketi et al. 2022, arXiv:2209.14390, algorithm 1: the
gradients taken at agent i's model, by itself and by its neighbors), and RelaySum's messages (Vogels et al. 2021,
arXiv:2110.04175, equation 3). mix_neighbors is the same for lists that start with an agent's own row.

Rounding: exact, each product and each sum rounds once, summed in the list's order.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Received, Rows, lists
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import weighted_sum_reference


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
    arguments=(
        Received(
            "rows",
            any_number=True,
            about="for example the gradients of all agents at one model after the other",
        ),
        Rows("out", written=True, read=False, about="shares no memory with rows"),
        *lists(
            "sources",
            about="numbers of rows, at least one, in the order of summation, padded with -1",
        ),
    ),
    reference=weighted_sum_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("out", "rows"),
)
