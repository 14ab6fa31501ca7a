"""DPPF's synchronization: every model is pulled towards a center and pushed away from it, in place.

    factor_i = (1 - pull_i) + push_i / max(||d_i||, 1e-12),   d_i = x_i - center
    x_i      = center + factor_i d_i

Dimlioglu and Choromanska 2025 (arXiv:2507.20424), reconstructed: the update rule was not readable, this one agrees
with its law that ||d_i|| settles at push / pull. Pull 1 and push 0 give the center itself (LocalSGD); push 0 and any
center is elastic averaging (EASGD, Zhang et al. 2015, arXiv:1412.6651, equation 5).

Rounding: exact. The distance is the float64 square root rounded to float32; then each operation rounds once.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Array, Rate, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import pull_push_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        pull: torch.Tensor, push: torch.Tensor, distances: torch.Tensor
    ) -> dict[str, Any]:
        center = torch.empty(columns).normal_(generator=generator)
        squared = distances.double().square()
        return {
            "x": draw.rows(),
            "center": center,
            "squared_distance": squared,
            "pull": pull,
            "push": push,
        }

    none = torch.zeros(agents)
    return {
        "one-strength": arguments(
            draw.scalar(0.05, 0.5), draw.scalar(0.1, 1.0), draw.scalars(0.5, 20.0)
        ),
        "per-agent": arguments(
            draw.scalars(0.05, 0.5), draw.scalars(0.1, 1.0), draw.scalars(1e-3, 1.0)
        ),
        "center-itself": arguments(torch.tensor(1.0), torch.tensor(0.0), draw.scalars(0.5, 2.0)),
        "no-distance": arguments(draw.scalar(0.05, 0.5), draw.scalar(1e-9, 1e-8), none),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 2 + 1 / arguments["x"].shape[0]


pull_push = Op(
    name="pull_push",
    arguments=(
        Rows("x", written=True),
        Array("center", torch.float32, "columns", about="the agents' mean, from consensus"),
        Array(
            "squared_distance",
            torch.float64,
            about="||d_i||^2 over all columns of the model, from consensus",
        ),
        Rate("pull"),
        Rate("push"),
    ),
    reference=pull_push_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
)
