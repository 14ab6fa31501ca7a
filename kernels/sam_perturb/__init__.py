"""SAM's ascent step: saved = x; x = x + (rho_i / (norm_i + 1e-12)) g_i for every agent i.

Aside: saved = x + (rho_i / (norm_i + 1e-12)) g_i, and x stays, for gradients that can be taken at other rows than x.

Foret et al. 2020 (arXiv:2010.01412), eq. 2 and algorithm 1, one norm over the whole model, per agent. The adaptive
variant scales by x^2 (Kwon et al. 2021, arXiv:2102.11600, eq. 4 without its constant): x + scale_i (x x g); its norm is
that of |x| g. A maximizing run descends instead. Where norm_i is not finite the agent stays where it is.

Rounding: exact. The scale, each product and the sum round once, in that order.
"""

from collections.abc import Mapping
from typing import Any

import torch

from fastsaddle.kernels.arguments import Array, Flag, Rate, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import sam_perturb_reference


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(
        rho: torch.Tensor,
        norm: torch.Tensor,
        adaptive: bool,
        maximize: bool,
        aside: bool = False,
    ) -> dict[str, Any]:
        rows = {name: draw.rows() for name in ("x", "g", "saved")}
        ways = {"adaptive": adaptive, "maximize": maximize, "aside": aside}
        return {**rows, "rho": rho, "norm": norm, **ways}

    return {
        "plain": arguments(draw.scalar(0.01, 0.1), draw.scalars(0.5, 2.0), False, False),
        "adaptive": arguments(draw.scalar(0.5, 2.0), draw.scalars(0.5, 2.0), True, False),
        "per-agent": arguments(draw.scalars(0.01, 0.1), draw.norms(), False, True),
        "zero-gradient": arguments(draw.scalar(0.01, 0.1), torch.zeros(agents), True, True),
        "aside": arguments(draw.scalar(0.01, 0.1), draw.scalars(0.5, 2.0), False, False, True),
        "adaptive-aside": arguments(draw.scalars(0.5, 2.0), draw.norms(), True, True, True),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 3 if arguments["aside"] else 4


sam_perturb = Op(
    name="sam_perturb",
    arguments=(
        Rows(
            "x",
            written=True,
            about="the models, in the end perturbed ones; aside it stays as it is",
        ),
        Rows("g"),
        Rows(
            "saved",
            written=True,
            read=False,
            about="x as it was: copying it back restores exactly; aside it gets the perturbed models",
        ),
        Rate("rho", about="the radius"),
        Array("norm", about="from agent_norm"),
        Flag("adaptive", about="use the adaptive scale"),
        Flag("maximize", about="the objective is maximized: step the other way"),
        Flag(
            "aside",
            default="False",
            about="write the perturbed models to saved, and nothing to x: one pass less",
        ),
    ),
    reference=sam_perturb_reference,
    folder=__name__,
    examples=examples,
    passes=passes,
)
