"""Gradients of all parameters into the flat buffer, in one pass, with the squares that norms are made of.

    g[:, starts_k : starts_k + n_k] = parts_k for every part k
    squares_is = sum of g_ic^2 over the columns c of slice s = 8192 s .. 8192 (s + 1) - 1

Autograd hands out a tensor for each parameter. Copied one by one they are a launch each, and `agent_norm` reads them
once more; `norm_of_squares` makes its norms of these sums, with its bits.

Rounding: squares and sums are float64, added in `agent_norm`'s order on the same backend. Lanes within a slice may be
ordered differently by each implementation: 2^-45 of the sum.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fastsaddle.kernels._shared.squares.reference import SLICE, norm_tolerance
from fastsaddle.kernels.arguments import ALIGNMENT, Array, Ints, Parts, Rows
from fastsaddle.kernels.examples import Draw
from fastsaddle.kernels.op import Op

from .reference import collect_gradients_reference

# arguments of one launch on a GPU are at most 4 KB
MOST_PARTS = 96


def check_places(g: torch.Tensor, parts: Sequence[torch.Tensor], starts: Sequence[int]) -> None:
    agents, columns = g.shape
    if not 1 <= len(parts) <= MOST_PARTS or len(parts) != len(starts):
        raise ValueError(
            f"parts must be 1 to {MOST_PARTS} tensors with a start for each, "
            f"got {len(parts)} parts and {len(starts)} starts"
        )
    free = 0
    for number, (part, start) in enumerate(zip(parts, starts, strict=True)):
        end = start + part.numel() // agents
        if start < free or start % ALIGNMENT or end > columns:
            raise ValueError(
                f"starts must be ascending multiples of {ALIGNMENT}, so that parts lie side by side within {columns} "
                f"columns, got {start} for part {number} of {end - start} numbers, behind one that ends at {free}"
            )
        free = end


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    draw = Draw(agents, columns, generator)

    def arguments(number: int, wanted: bool, gap: int = 0) -> dict[str, Any]:
        width = columns // 32 // number * 32
        starts = [k * width for k in range(number)] if width else [0]
        ends = [*starts[1:], columns]
        # the last numbers of each are padding
        parts = [
            draw.rows()[:, : end - start - 5 * k % 32 - gap].contiguous()
            for k, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        parts[-1] = parts[-1][:, :, None]
        squares = torch.zeros(agents, -(-columns // SLICE), dtype=torch.float64)
        return {
            "g": torch.zeros(agents, columns),
            "parts": parts,
            "starts": starts,
            "squares": squares if wanted else None,
        }

    apart = arguments(2, True)
    # of a larger tensor
    apart["parts"] = [torch.cat([part, part], 1)[:, : part.shape[1]] for part in apart["parts"]]
    return {
        "one": arguments(1, True),
        "several": arguments(5, True),
        "apart": apart,
        "gaps": arguments(3, True, 7),
        "no-squares": arguments(4, False),
    }


def passes(arguments: Mapping[str, Any]) -> float:
    return 2


def tolerance(output: str, arguments: Mapping[str, Any], expected: torch.Tensor) -> torch.Tensor:
    return norm_tolerance(output, expected)


collect_gradients = Op(
    name="collect_gradients",
    arguments=(
        Rows(
            "g",
            written=True,
            about="the columns of all parts are overwritten, others hold zeros and stay",
        ),
        Parts("parts", about=f"at most {MOST_PARTS}"),
        Ints(
            "starts", about="the column of g at which each part begins, ascending multiples of 32"
        ),
        Array(
            "squares",
            torch.float64,
            "agents, (columns + 8191) // 8192",
            written=True,
            read=False,
            optional=True,
            about="None where they are not wanted",
        ),
    ),
    reference=collect_gradients_reference,
    rules=(check_places,),
    folder=__name__,
    examples=examples,
    passes=passes,
    tolerance=tolerance,
)
