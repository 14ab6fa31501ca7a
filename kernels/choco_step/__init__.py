"""One whole step of compressed gossip learning for all agents, in one pass: CHOCO gossip with a stochastic quantizer.

    start  = saved, or x where no perturbation is to be undone
    h      = start - lr u                                as in `gossip_step`; local momentum likewise
    compress, then mix:
        t  = h - x_hat;   x_hat += Q(t);   x_i = h_i + gamma (sum_k weights_ik x_hat_{neighbors_ik} - x_hat_i)
    mix with the former copies, then compress (mix_first):
        x_i = h_i + gamma (sum_k weights_ik x_hat_{neighbors_ik} - x_hat_i);   t = x - x_hat;   x_hat += Q(t)
    momentum = mu momentum + (1 - mu) (start - x) / lr   kind 2, quasi-global; unchanged where lr = 0

Q is the quantizer of the op `quantize` with norm 0, at most 127 levels and its draws; its codes are not written, as
the agents are all here. x_hat are the public copies, which every neighbor of an agent holds alike. CHOCO-SGD
(Koloskova et al. 2019, arXiv:1902.00340, algorithm 2) in the order of its authors' deep learning code (mix_first; 2019,
arXiv:1907.09356) and in that of AdaGossip's and CoDeC's. With quasi-global momentum, and with SAM's gradient, it is a
reconstruction of Comp QGM and Comp Q-SADDLe (Choudhary et al. 2024, arXiv:2405.13961).

An agent whose norm is not finite, or that is not active, takes no local step, but compresses and mixes. A bucket of t
that is not finite makes its part of the public copy NaN.

Each of momentum and x_hat may be bfloat16: it is widened exactly, all the above is float32, and what is written is
rounded stochastically (see _shared/bfloat16), momentum by draws of the stream MOMENTUM, copies by those of COPIES. A
copy becomes round(x_hat + Q(t)), and every holder rounds it alike, by the owner's draws: mixing that comes later, in
this step or the next, reads what is kept. What rounding takes or adds stays in the next t, so it is sent later. The
step takes m before it is rounded. `squares` are the quantizer's alone.

Rounding: exact; every operation rounds once, in the order written. Squares are sums in any order, of float32 within
parts of 512 columns: a relative 2^-16.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.buckets.arguments import (
    BUCKETS,
    MOST_ELEMENTS,
    MOST_LEVELS,
    SQUARES,
)
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
from fastsaddle.kernels.arguments import Flag, Int, Rate, Rows, State, draws, lists
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import choco_step_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        kind: int,
        perturbed: bool,
        degree: int,
        nesterov: bool,
        mix_first: bool,
        levels: int,
        momentum: torch.dtype = torch.float32,
        copies: torch.dtype = torch.float32,
        has_norm: bool = True,
        some_active: bool = False,
    ) -> dict[str, Any]:
        neighbors, weights = draw.lists(degree)
        table = draw.buckets(512)
        rates = draw.scalars(0.01, 0.5)
        rates[-1] = 0.0
        norm = draw.norms() if perturbed and has_norm else None
        g = draw.without_holes(draw.rows(), table)
        if norm is not None:
            g[~norm.isfinite()] = float("nan")
        active = draw.active() if some_active else None
        if active is not None:
            g[~active] = float("nan")
        return {
            "x": draw.without_holes(draw.rows(), table),
            "saved": draw.without_holes(draw.rows(), table) if perturbed else None,
            "g": g,
            "momentum": (
                draw.state(draw.without_holes(draw.rows(), table), momentum) if kind else None
            ),
            "x_hat": draw.state(draw.without_holes(draw.uneven_rows(), table), copies),
            "neighbors": neighbors,
            "weights": weights,
            "buckets": table,
            "bucket": int(table[:, 1].max()),
            "lr": rates if perturbed else draw.scalar(0.01, 0.5),
            "weight_decay": draw.scalar(1e-4, 1e-2),
            "beta": draw.scalar(0.5, 0.95),
            "mu": draw.scalar(0.5, 0.95),
            "gamma": draw.scalars(0.1, 1.0) if perturbed else draw.scalar(0.1, 1.0),
            "norm": norm,
            "kind": kind,
            "nesterov": nesterov,
            "maximize": perturbed and not nesterov,
            "mix_first": mix_first,
            "levels": levels,
            **draw.random(),
            "squares": torch.zeros(agents, 2, dtype=torch.float64),
            "active": active,
        }

    half = (torch.bfloat16, torch.bfloat16)
    return {
        "quasi-global": arguments(2, False, 2, False, False, 127),
        "quasi-global-saved": arguments(2, True, 3, True, False, 7),
        "quasi-global-mix-first": arguments(2, False, 2, False, True, 127),
        "local": arguments(1, False, 4, True, False, 1),
        "local-saved-mix-first": arguments(1, True, 1, False, True, 7),
        "plain": arguments(0, False, 2, False, True, 100),
        "plain-saved": arguments(0, True, 7, False, False, 127),
        "quasi-global-bfloat16": arguments(2, False, 2, False, False, 127, *half),
        "quasi-global-mix-first-bfloat16": arguments(2, True, 2, True, True, 127, *half),
        "local-saved-mix-first-bfloat16": arguments(1, True, 3, False, True, 7, *half),
        "plain-bfloat16": arguments(0, False, 4, False, False, 127, *half),
        "local-bfloat16-momentum": arguments(1, False, 2, True, False, 100, torch.bfloat16),
        "quasi-global-saved-active": arguments(
            2, True, 3, True, False, 7, has_norm=False, some_active=True
        ),
        "local-saved-mix-first-active-bfloat16": arguments(
            1, True, 3, False, True, 7, *half, some_active=True
        ),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 3 + 2 * (passes_of(arguments["momentum"]) + passes_of(arguments["x_hat"]))


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    return expected.abs() * 2.0**-16 if output == "squares" else torch.zeros_like(expected)


choco_step = Op(
    name="choco_step",
    arguments=(
        Rows("x", written=True, about="the models, in the end mixed ones"),
        *(SAVED, G, MOMENTUM),
        State("x_hat", written=True, about="the public copies"),
        *lists(about=LISTED),
        BUCKETS,
        Int("bucket", 1, MOST_ELEMENTS, about="no bucket has more elements"),
        *(LR, WEIGHT_DECAY, BETA, MU),
        Rate("gamma", about="consensus step size"),
        *(NORM, KIND, NESTEROV, MAXIMIZE),
        Flag("mix_first", about="the second order"),
        Int("levels", 1, MOST_LEVELS, about="of the quantizer"),
        *draws(),
        SQUARES,
        ACTIVE,
    ),
    reference=choco_step_reference,
    rules=(check_kind,),
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
