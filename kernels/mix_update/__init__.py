"""Second half of gossip_step: mix the models that arrived, and update quasi-global momentum.

    start = saved, or x
    x_i   = sum_k weights_ik h_{neighbors_ik}
    momentum = mu momentum + (1 - mu) (start - x) / lr   kind 2; unchanged where lr = 0 or no step was taken

Lin et al. 2021 (arXiv:2102.04761), algorithm 1, with the displacement divided by the rate that made it.

Arguments: as in gossip_step, and
    h         `[agents + foreign, columns]` float32: the agents' rows from local_step, then rows that were received from
              agents elsewhere, if any; shares no memory with x
    neighbors `[agents, width]` int32: rows of h, each agent's own first, padded with -1
    momentum  for kind 2 only, float32 or bfloat16; kinds 0 and 1 leave it alone, and take None

Rounding: exact, the same operations in the same order as gossip_step.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.buckets.reference import check_draw
from fastsaddle.kernels.arguments import (
    check_neighbors,
    check_per_agent,
    check_rows,
    check_scalars,
    check_senders,
    check_state,
)
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import mix_update_reference


def check(
    x: torch.Tensor,
    saved: torch.Tensor | None,
    h: torch.Tensor,
    momentum: torch.Tensor | None,
    neighbors: torch.Tensor,
    weights: torch.Tensor,
    lr: torch.Tensor,
    mu: torch.Tensor,
    norm: torch.Tensor | None,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    active: torch.Tensor | None = None,
) -> None:
    check_rows(x, x=x, saved=saved)
    check_senders(x, h=h)
    check_state(x, momentum=momentum)
    check_neighbors(x, neighbors, weights)
    check_scalars(x, lr=lr, mu=mu)
    check_per_agent(x, torch.float32, norm=norm)
    check_per_agent(x, torch.bool, active=active)
    check_draw(x, seed, step, first_agent)


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
    schema=(
        "(Tensor(a!) x, Tensor? saved, Tensor h, Tensor(b!)? momentum, Tensor neighbors, Tensor weights, "
        "Tensor lr, Tensor mu, Tensor? norm, int seed, Tensor step, int first_agent, Tensor? active=None)"
    ),
    reference=mix_update_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("x", "h"),
)
