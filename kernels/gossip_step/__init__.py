"""One whole step of gossip learning for all agents: local step, neighbor mixing and momentum in one pass.

    start = saved, or x where no perturbation is to be undone
    g'    = (+-)g + weight_decay start
    u     = g'                          kind 0, no momentum
    m     = beta momentum + g'          kinds 1 and 2;  u = m, or g' + beta m with Nesterov
    h     = start - lr u
    x_i   = sum_k weights_ik h_{neighbors_ik}          summed in the list's order: self, then ascending
    momentum = m                                       kind 1, local
    momentum = mu momentum + (1 - mu) (start - x) / lr  kind 2, quasi-global; unchanged where lr = 0

D-PSGD (Lian et al. 2017, arXiv:1705.09056) in adapt-then-combine order, heavy ball and Nesterov as in PyTorch's SGD,
and quasi-global momentum (Lin et al. 2021, arXiv:2102.04761, algorithm 1). Reading `saved` instead of x undoes SAM's
perturbation in the same pass. The halves are local_step and mix_update; composed they give the same bits.

`momentum` may be bfloat16 instead: it is widened exactly, all the above is float32, and what is written is rounded
stochastically (see _shared/bfloat16) by draws of the stream MOMENTUM. The step itself takes m before it is rounded.

Rounding: exact; every operation rounds once, in the order written.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.step.arguments import (
    ACTIVE,
    BETA,
    KIND,
    LISTED,
    LR,
    MAXIMIZE,
    MOMENTUM,
    MU,
    NESTEROV,
    NORM,
    SAVED,
    WEIGHT_DECAY,
    G,
)
from fastsaddle.kernels._shared.step.reference import check_kind
from fastsaddle.kernels.arguments import Rows, draws, lists
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import gossip_step_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        kind: int,
        perturbed: bool,
        degree: int,
        nesterov: bool,
        maximize: bool,
        dtype: torch.dtype = torch.float32,
        has_norm: bool = True,
        some_active: bool = False,
    ) -> dict[str, Any]:
        neighbors, weights = draw.lists(degree)
        rates = draw.scalars(0.01, 0.5)
        rates[-1] = 0.0
        norm = draw.norms() if perturbed and has_norm else None
        g = draw.rows()
        if norm is not None:
            g[~norm.isfinite()] = float("nan")
        active = draw.active() if some_active else None
        if active is not None:
            g[~active] = float("nan")
        return {
            "x": draw.rows(),
            "saved": draw.rows() if perturbed else None,
            "g": g,
            "momentum": draw.state(draw.rows(), dtype) if kind else None,
            "neighbors": neighbors,
            "weights": weights,
            "lr": rates if perturbed else draw.scalar(0.01, 0.5),
            "weight_decay": draw.scalar(1e-4, 1e-2),
            "beta": draw.scalar(0.5, 0.95),
            "mu": draw.scalar(0.5, 0.95),
            "norm": norm,
            "kind": kind,
            "nesterov": nesterov,
            "maximize": maximize,
            **draw.random(),
            "active": active,
        }

    return {
        "quasi-global": arguments(2, False, 2, False, False),
        "quasi-global-saved": arguments(2, True, 3, True, False),
        "local": arguments(1, False, 4, True, True),
        "local-saved": arguments(1, True, 1, False, False),
        "plain": arguments(0, False, 2, False, False),
        "plain-saved": arguments(0, True, 7, False, True),
        "quasi-global-bfloat16": arguments(2, False, 2, False, False, torch.bfloat16),
        "quasi-global-saved-bfloat16": arguments(2, True, 3, True, True, torch.bfloat16),
        "local-saved-bfloat16": arguments(1, True, 4, True, False, torch.bfloat16),
        "local-saved-active": arguments(1, True, 1, False, False, has_norm=False, some_active=True),
        "quasi-global-saved-active-bfloat16": arguments(
            2, True, 3, True, True, torch.bfloat16, some_active=True
        ),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 3 + 2 * passes_of(arguments["momentum"])


gossip_step = Op(
    name="gossip_step",
    arguments=(
        Rows("x", written=True, about="the models, in the end mixed ones"),
        *(SAVED, G, MOMENTUM),
        *lists(about=LISTED),
        *(LR, WEIGHT_DECAY, BETA, MU, NORM, KIND, NESTEROV, MAXIMIZE),
        *draws(),
        ACTIVE,
    ),
    reference=gossip_step_reference,
    rules=(check_kind,),
    folder=__name__,
    examples=examples,
    passes=passes,
)
