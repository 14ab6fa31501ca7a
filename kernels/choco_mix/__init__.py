"""Second part of choco_step where messages travel in between: mix public copies, and update quasi-global momentum.

    start = saved, or x
    x_i   = h_i + gamma (sum_k weights_ik x_hat_{neighbors_ik} - x_hat_i)
    momentum = mu momentum + (1 - mu) (start - x) / lr   unchanged where lr = 0 or no step was taken

`choco_encode` is the other part, and says how both make a step in either order: after it, with the copies that have
moved, or before it, with the former ones. Without momentum it is the mixing of CHOCO gossip alone. CHOCO-SGD (Koloskova
et al. 2019, arXiv:1902.00340, algorithm 2), with the conventions and sources of `choco_step`. Momentum and x_hat may be
bfloat16, with its roundings.

Rounding: exact, the same operations in the same order as choco_step.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.step.arguments import ACTIVE, LR, MU, NORM, SAVED
from fastsaddle.kernels.arguments import Rate, ReceivedState, Rows, State, draws, lists
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import choco_mix_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        perturbed: bool,
        quasi_global: bool,
        degree: int,
        momentum: torch.dtype = torch.float32,
        copies: torch.dtype = torch.float32,
        has_halo: bool = False,
        has_norm: bool = True,
        some_active: bool = False,
    ) -> dict[str, Any]:
        if has_halo:
            x_hat, neighbors, weights = draw.halo(degree)
        else:
            (neighbors, weights), x_hat = draw.lists(degree), draw.rows()
        rates = draw.scalars(0.01, 0.5)
        rates[-1] = 0.0
        return {
            "x": draw.rows(),
            "saved": draw.rows() if perturbed else None,
            "h": draw.rows(),
            "momentum": draw.state(draw.rows(), momentum) if quasi_global else None,
            "x_hat": draw.state(x_hat, copies),
            "neighbors": neighbors,
            "weights": weights,
            "lr": rates if perturbed else draw.scalar(0.01, 0.5),
            "mu": draw.scalar(0.5, 0.95),
            "gamma": draw.scalars(0.1, 1.0) if perturbed else draw.scalar(0.1, 1.0),
            "norm": draw.norms() if perturbed and has_norm else None,
            **draw.random(),
            "active": draw.active() if some_active else None,
        }

    half = (torch.bfloat16, torch.bfloat16)
    return {
        "quasi-global": arguments(False, True, 2),
        "quasi-global-saved": arguments(True, True, 3),
        "plain": arguments(False, False, 6),
        "plain-saved": arguments(True, False, 2),
        "quasi-global-bfloat16": arguments(False, True, 2, *half),
        "quasi-global-bfloat16-momentum": arguments(True, True, 4, torch.bfloat16),
        "quasi-global-halo": arguments(False, True, 3, has_halo=True),
        "plain-halo": arguments(False, False, 4, has_halo=True),
        "quasi-global-saved-halo-bfloat16": arguments(True, True, 2, *half, has_halo=True),
        "quasi-global-active": arguments(True, True, 3, has_norm=False, some_active=True),
        "quasi-global-saved-active-bfloat16": arguments(True, True, 3, *half, some_active=True),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    momentum, copies = arguments["momentum"], arguments["x_hat"]
    mixing = 2 + passes_of(copies) * copies.shape[0] / arguments["x"].shape[0]
    return mixing if momentum is None else mixing + 1 + 2 * passes_of(momentum)


choco_mix = Op(
    name="choco_mix",
    arguments=(
        Rows("x", written=True, about="the models, in the end mixed ones"),
        SAVED,
        Rows("h", about="the models after the local step"),
        State(
            "momentum",
            written=True,
            optional=True,
            about="quasi-global momentum; None for kinds 0 and 1",
        ),
        ReceivedState(
            "x_hat",
            about="the agents' public copies, then those of agents elsewhere, if any; shares no memory with x",
        ),
        *lists(about="rows of x_hat, each agent's own first, padded with -1"),
        *(LR, MU),
        Rate("gamma", about="consensus step size"),
        NORM,
        *draws(),
        ACTIVE,
    ),
    reference=choco_mix_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("x", "x_hat"),
)
