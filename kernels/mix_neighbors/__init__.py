"""One gossip round alone: out_i = sum_k weights_ik x_{neighbors_ik}, that is out = W x with W as neighbor lists.

Xiao and Boyd 2004 (fast linear iterations for distributed averaging), one multiplication by the mixing matrix.

Rounding: exact, summed in the list's order.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Received, Rows, lists
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import mix_neighbors_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)
    result = {}
    for degree in (2, 5):
        neighbors, weights = draw.lists(degree)
        result[f"degree-{degree}"] = {
            "x": draw.rows(),
            "out": draw.rows(),
            "neighbors": neighbors,
            "weights": weights,
        }
    x, neighbors, weights = draw.halo(4)
    result["halo"] = {"x": x, "out": draw.rows(), "neighbors": neighbors, "weights": weights}
    return result


def passes(arguments: Mapping[str, Any]) -> float:
    return arguments["x"].shape[0] / arguments["out"].shape[0] + 1


mix_neighbors = Op(
    name="mix_neighbors",
    arguments=(
        Received(
            "x",
            about="the agents' rows, then rows that were received from agents elsewhere, if any",
        ),
        Rows("out", written=True, read=False, about="shares no memory with x"),
        *lists(about="rows of x, each agent's own first, then its neighbors', padded with -1"),
    ),
    reference=mix_neighbors_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("out", "x"),
)
