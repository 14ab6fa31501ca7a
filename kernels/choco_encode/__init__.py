"""First part of choco_step where messages travel in between: every agent's local step, and its news as a message.

    start = saved, or x;   h = start - lr u         as in `local_step`; without g there is no step, and h is x
    t     = h - x_hat;     codes, scales, signs     those of `quantize` with norm 0, of t
    x_hat += Q(t)                                   where `moves` says so

`choco_mix` is the other part. CHOCO-SGD (Koloskova et al. 2019, arXiv:1902.00340, algorithm 2), with the conventions,
the draws and the sources of `choco_step`:

    compress, then mix:   choco_encode;  the messages travel;  choco_mix
    mix, then compress:   local_step;  choco_mix;  choco_encode of the mixed models, without g

Whoever adds what is sent to a copy, as `dequantize_add` does with weight 1, has the bits that `moves` gives: so an
agent whose message may yet fail to leave moves its own copy when it has left, with all others. Codes, scales and signs
may lie in the messages themselves.

An agent whose norm is not finite, or that is not active, takes no local step, and encodes what it has. A bucket of t
that is not finite has scale NaN and codes zero, and makes its part of a copy NaN. Momentum and x_hat may be bfloat16,
with the roundings of `choco_step`.

Rounding: exact, the same operations in the same order as choco_step. Squares are sums in any order, of float32 within
parts of 512 columns: a relative 2^-16.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.buckets.arguments import (
    BITS,
    BUCKETS,
    CODES,
    MOST_ELEMENTS,
    MOST_LEVELS,
    SCALES,
    SIGNS,
    SQUARES,
)
from fastsaddle.kernels._shared.buckets.reference import check_code
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
)
from fastsaddle.kernels._shared.step.reference import check_kind
from fastsaddle.kernels.arguments import Flag, Int, Rows, State, draws
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import choco_encode_reference


def check_message(bits: int, levels: int, signs: torch.Tensor | None) -> None:
    check_code(bits, levels, 0, signs)


def check_step(
    saved: torch.Tensor | None, g: torch.Tensor | None, h: torch.Tensor | None, kind: int
) -> None:
    if (g is None) != (h is None) or (g is None and (kind or saved is not None)):
        given = [name for name, rows in (("saved", saved), ("g", g), ("h", h)) if rows is not None]
        raise ValueError(
            "g and h must be given together, and without them neither saved nor a kind but 0: "
            f"got {', '.join(given) or 'none of them'} and kind {kind}"
        )


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        kind: int | None,
        perturbed: bool,
        nesterov: bool,
        moves: bool,
        bits: int,
        levels: int,
        momentum: torch.dtype = torch.float32,
        copies: torch.dtype = torch.float32,
        has_norm: bool = True,
        some_active: bool = False,
    ) -> dict[str, Any]:
        table = draw.buckets(512)
        norm = draw.norms() if perturbed and has_norm else None
        active = draw.active() if some_active else None
        g = None if kind is None else draw.without_holes(draw.rows(), table)
        if g is not None and norm is not None:
            g[~norm.isfinite()] = float("nan")
        if g is not None and active is not None:
            g[~active] = float("nan")
        return {
            "x": draw.without_holes(draw.rows(), table),
            "saved": draw.without_holes(draw.rows(), table) if perturbed else None,
            "g": g,
            "momentum": (
                draw.state(draw.without_holes(draw.rows(), table), momentum) if kind else None
            ),
            "h": None if g is None else draw.rows(),
            "x_hat": draw.state(draw.without_holes(draw.uneven_rows(), table), copies),
            "buckets": table,
            "bucket": int(table[:, 1].max()),
            "bits": bits,
            "lr": draw.scalars(0.01, 0.5) if perturbed else draw.scalar(0.01, 0.5),
            "weight_decay": draw.scalar(1e-4, 1e-2),
            "beta": draw.scalar(0.5, 0.95),
            "norm": norm,
            "kind": kind or 0,
            "nesterov": nesterov,
            "maximize": perturbed and not nesterov,
            "moves": moves,
            "levels": levels,
            **draw.random(),
            **draw.code(bits, table, levels >= 2 ** (bits - 1)),
            "squares": torch.zeros(agents, 2, dtype=torch.float64),
            "active": active,
        }

    half = (torch.bfloat16, torch.bfloat16)
    return {
        "quasi-global": arguments(2, False, False, False, 8, 127),
        "quasi-global-saved-moves": arguments(2, True, True, True, 4, 7),
        "local-moves": arguments(1, False, True, True, 2, 1),
        "local-saved": arguments(1, True, False, False, 8, 100),
        "plain-moves": arguments(0, False, False, True, 8, 127),
        "plain-saved-signs": arguments(0, True, False, False, 4, 15),
        "no-step": arguments(None, False, False, False, 8, 127),
        "no-step-moves-signs": arguments(None, False, False, True, 2, 3),
        "quasi-global-moves-bfloat16": arguments(2, False, False, True, 8, 127, *half),
        "local-saved-bfloat16": arguments(1, True, True, False, 4, 7, *half),
        "no-step-moves-bfloat16": arguments(None, False, False, True, 4, 7, *half),
        "local-moves-bfloat16-momentum": arguments(1, False, True, True, 8, 100, torch.bfloat16),
        "quasi-global-saved-active": arguments(
            2, True, True, False, 8, 127, has_norm=False, some_active=True
        ),
        "local-saved-moves-active-bfloat16": arguments(
            1, True, False, True, 4, 7, *half, some_active=True
        ),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    moment, copies = passes_of(arguments["momentum"]), passes_of(arguments["x_hat"])
    local = (1 + arguments["kind"] % 2) * moment + (0 if arguments["g"] is None else 2)
    sent = (arguments["bits"] + (arguments["signs"] is not None)) / 32
    return 1 + local + (1 + arguments["moves"]) * copies + sent


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    allowed = 2.0**-16 if output == "squares" else 0.0
    return expected.double().abs() * allowed


choco_encode = Op(
    name="choco_encode",
    arguments=(
        Rows("x", about="the models"),
        SAVED,
        Rows("g", optional=True, about="the gradients; None where no local step is taken"),
        MOMENTUM,
        Rows(
            "h",
            written=True,
            read=False,
            optional=True,
            about="the models after the local step; None where none is taken",
        ),
        State("x_hat", written=True, about="the agents' own public copies"),
        BUCKETS,
        Int("bucket", 1, MOST_ELEMENTS, about="no bucket has more elements"),
        BITS,
        *(LR, WEIGHT_DECAY, BETA, NORM, KIND, NESTEROV, MAXIMIZE),
        Flag(
            "moves",
            about="whether the copies move now; else whoever decodes the message moves them",
        ),
        Int("levels", 1, MOST_LEVELS, about="of the quantizer"),
        *draws(),
        *(replace(part, apart=True) for part in (CODES, SCALES, SIGNS)),
        SQUARES,
        ACTIVE,
    ),
    reference=choco_encode_reference,
    rules=(check_kind, check_message, check_step),
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
    apart=("h", "x"),
)
