"""Second half of gossip_step: mix the models that arrived, and update quasi-global momentum.

    start = saved, or x
    x_i   = sum_k weights_ik h_{neighbors_ik}
    momentum = mu momentum + (1 - mu) (start - x) / lr   kind 2; unchanged where lr = 0 or no step was taken

Lin et al. 2021 (arXiv:2102.04761), algorithm 1, with the displacement divided by the rate that made it.

Rounding: exact, the same operations in the same order as gossip_step.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.step.arguments import ACTIVE, LR, MU, NORM, SAVED
from fastsaddle.kernels.arguments import Received, Rows, State, draws, lists
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import mix_update_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        perturbed: bool,
        quasi_global: bool,
        degree: int,
        dtype: torch.dtype = torch.float32,
        has_halo: bool = False,
        has_norm: bool = True,
        some_active: bool = False,
    ) -> dict[str, Any]:
        if has_halo:
            h, neighbors, weights = draw.halo(degree)
        else:
            (neighbors, weights), h = draw.lists(degree), draw.rows()
        rates = draw.scalars(0.01, 0.5)
        rates[-1] = 0.0
        return {
            "x": draw.rows(),
            "saved": draw.rows() if perturbed else None,
            "h": h,
            "momentum": draw.state(draw.rows(), dtype) if quasi_global else None,
            "neighbors": neighbors,
            "weights": weights,
            "lr": rates if perturbed else draw.scalar(0.01, 0.5),
            "mu": draw.scalar(0.5, 0.95),
            "norm": draw.norms() if perturbed and has_norm else None,
            **draw.random(),
            "active": draw.active() if some_active else None,
        }

    return {
        "quasi-global": arguments(False, True, 2),
        "quasi-global-saved": arguments(True, True, 3),
        "plain": arguments(False, False, 6),
        "quasi-global-saved-bfloat16": arguments(True, True, 3, torch.bfloat16),
        "quasi-global-halo": arguments(False, True, 3, has_halo=True),
        "plain-halo": arguments(False, False, 4, has_halo=True),
        "quasi-global-saved-halo-bfloat16": arguments(True, True, 2, torch.bfloat16, True),
        "quasi-global-active": arguments(True, True, 3, has_norm=False, some_active=True),
        "quasi-global-saved-active-bfloat16": arguments(
            True, True, 3, torch.bfloat16, some_active=True
        ),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    momentum = arguments["momentum"]
    mixing = arguments["h"].shape[0] / arguments["x"].shape[0] + 1
    return mixing if momentum is None else mixing + 1 + 2 * passes_of(momentum)


mix_update = Op(
    name="mix_update",
    arguments=(
        Rows("x", written=True, about="the models, in the end mixed ones"),
        SAVED,
        Received(
            "h",
            about="the agents' rows from local_step, then rows that came from agents elsewhere, if "
            "any; shares no memory with x",
        ),
        State(
            "momentum",
            written=True,
            optional=True,
            about="quasi-global momentum; None for kinds 0 and 1",
        ),
        *lists(about="rows of h, each agent's own first, padded with -1"),
        *(LR, MU, NORM),
        *draws(),
        ACTIVE,
    ),
    reference=mix_update_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("x", "h"),
)
