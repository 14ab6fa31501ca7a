"""Batches of all agents, gathered from the samples that lie in memory: looked up, cropped and flipped on the way.

out[i, b] is sample indices[i, b]. A pixel of channel c and level v becomes table[c, v], so that images stay bytes in
memory and are normalized as they are gathered, with the bits of whatever arithmetic made the table. A crop keeps the
image's size: the pixel at (y, x) comes from (y + down, x + right) of the image, and is fill[c] where that lies outside.
A flip follows it and turns columns around. Padding by black pixels, random crops and horizontal flips are customary for
CIFAR (He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2).

Rounding: none, numbers are copied.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from fastsaddle.kernels.arguments import MOST_COLUMNS, Array
from fastsaddle.kernels.op import Op

from .reference import LEVELS, gather_batch_reference


def check_samples(
    samples: torch.Tensor,
    table: torch.Tensor | None,
    fill: torch.Tensor | None,
    offsets: torch.Tensor | None,
    flips: torch.Tensor | None,
) -> None:
    dtype = torch.float32 if table is None else torch.uint8
    if samples.dtype != dtype:
        raise ValueError(
            f"samples must be {dtype} {'without' if table is None else 'with'} a table, got {samples.dtype}"
        )
    if prod(samples.shape[1:]) > MOST_COLUMNS:
        raise ValueError(
            f"a sample may have at most {MOST_COLUMNS} numbers, got {list(samples.shape)}"
        )
    if len({value is None for value in (fill, offsets, flips)}) > 1:
        raise ValueError("fill, offsets and flips must be given together, or none of them")


def examples(agents: int, columns: int, generator: torch.Generator) -> dict[str, dict[str, Any]]:
    """Images of `columns` pixels in a row, and of as many in several rows and channels."""
    result = {}
    row, image = (1, 1, columns), (3, columns // 32 + 1, 11)
    for variant, shape, batch in (
        ("levels-still", row, 2),
        ("levels-moved", image, 3),
        ("numbers-still", image, 2),
        ("numbers-moved", row, 3),
    ):
        samples, size = agents + 5, (agents, batch)
        if variant.startswith("levels"):
            stored = torch.randint(0, LEVELS, (samples, *shape), generator=generator).byte()
            table = torch.empty(shape[0], LEVELS).normal_(generator=generator)
        else:
            stored, table = torch.empty(samples, *shape).normal_(generator=generator), None
        result[variant] = {
            "samples": stored,
            "indices": torch.randint(0, samples, size, generator=generator),
            "out": torch.zeros(*size, *shape),
            "table": table,
            **dict.fromkeys(("fill", "offsets", "flips")),
        }
        if variant.endswith("moved"):
            # some leave nothing of the image, one leaves it where it is
            most = max(shape[1:])
            offsets = torch.randint(-most, most + 1, (*size, 2), generator=generator).short()
            flips = torch.rand(size, generator=generator) < 0.5
            offsets[0, 0], flips[0, 0] = 0, False
            fill = torch.empty(shape[0]).normal_(generator=generator)
            result[variant] |= {"fill": fill, "offsets": offsets, "flips": flips}
    return result


def passes(arguments: Mapping[str, Any]) -> float:
    """Of buffers as large as the batch: what is written, and the samples in it."""
    return 1 + arguments["samples"].itemsize / 4


gather_batch = Op(
    name="gather_batch",
    arguments=(
        Array(
            "samples",
            None,
            "stored, channels, height, width",
            about="uint8 with a table, float32 without one",
        ),
        Array(
            "indices", torch.int64, "agents, batch", about="each in 0..stored-1 (checked on a CPU)"
        ),
        Array(
            "out", torch.float32, "agents, batch, channels, height, width", written=True, read=False
        ),
        Array(
            "table",
            torch.float32,
            "channels, 256",
            optional=True,
            about="what the levels of a channel stand for; None for float32 samples",
        ),
        Array(
            "fill",
            torch.float32,
            "channels",
            optional=True,
            about="the value of what lies outside of the image; None where nothing is moved",
        ),
        Array(
            "offsets",
            torch.int16,
            "agents, batch, 2",
            optional=True,
            about="(down, right); None where nothing is moved",
        ),
        Array(
            "flips", torch.bool, "agents, batch", optional=True, about="None where nothing is moved"
        ),
    ),
    reference=gather_batch_reference,
    rules=(check_samples,),
    folder=__name__,
    examples=examples,
    passes=passes,
)
