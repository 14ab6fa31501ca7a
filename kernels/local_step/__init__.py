"""First half of gossip_step: every agent's local step, written to h as the model to send.

    start = saved, or x;   g' = (+-)g + weight_decay start;   h = start - lr u(g', momentum)

with u as in gossip_step (Lian et al. 2017, arXiv:1705.09056). Local momentum (kind 1) is updated here; quasi-global
momentum (kind 2) is read here and updated by mix_update, once the neighbors' models have arrived. Of bfloat16 momentum
only what is written is rounded: h takes m before.

Rounding: exact, the same operations in the same order as gossip_step.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.step.arguments import (
    ACTIVE,
    BETA,
    KIND,
    LR,
    MAXIMIZE,
    MOMENTUM,
    NESTEROV,
    NORM,
    SAVED,
    WEIGHT_DECAY,
    G,
)
from fastsaddle.kernels._shared.step.reference import check_kind
from fastsaddle.kernels.arguments import Rows, draws
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import local_step_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        kind: int,
        perturbed: bool,
        nesterov: bool,
        maximize: bool,
        dtype: torch.dtype = torch.float32,
        has_norm: bool = True,
        some_active: bool = False,
    ) -> dict[str, Any]:
        return {
            "x": draw.rows(),
            "saved": draw.rows() if perturbed else None,
            "g": draw.rows(),
            "momentum": draw.state(draw.rows(), dtype) if kind else None,
            "h": draw.rows(),
            "lr": draw.scalars(0.01, 0.5) if perturbed else draw.scalar(0.01, 0.5),
            "weight_decay": draw.scalar(1e-4, 1e-2),
            "beta": draw.scalar(0.5, 0.95),
            "norm": draw.norms() if perturbed and has_norm else None,
            "kind": kind,
            "nesterov": nesterov,
            "maximize": maximize,
            **draw.random(),
            "active": draw.active() if some_active else None,
        }

    return {
        "quasi-global": arguments(2, True, True, False),
        "local": arguments(1, True, False, True),
        "plain": arguments(0, False, False, False),
        "quasi-global-bfloat16": arguments(2, True, False, True, torch.bfloat16),
        "local-bfloat16": arguments(1, True, True, False, torch.bfloat16),
        "local-active": arguments(1, True, False, True, has_norm=False, some_active=True),
        "quasi-global-active-bfloat16": arguments(
            2, True, False, True, torch.bfloat16, some_active=True
        ),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 3 + {0: 0, 1: 2, 2: 1}[arguments["kind"]] * passes_of(arguments["momentum"])


local_step = Op(
    name="local_step",
    arguments=(
        Rows("x", about="the models"),
        *(SAVED, G, MOMENTUM),
        Rows(
            "h",
            written=True,
            read=False,
            about="what is sent; start itself for agents that take no step",
        ),
        *(LR, WEIGHT_DECAY, BETA, NORM, KIND, NESTEROV, MAXIMIZE),
        *draws(),
        ACTIVE,
    ),
    reference=local_step_reference,
    rules=(check_kind,),
    folder=__name__,
    examples=examples,
    passes=passes,
    apart=("h", "x"),
)
