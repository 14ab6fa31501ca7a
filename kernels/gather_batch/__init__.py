"""Batches of all agents, gathered from the samples that lie in memory: looked up, cropped and flipped on the way.

out[i, b] is sample indices[i, b]. A pixel of channel c and level v becomes table[c, v], so that images stay bytes in
memory and are normalized as they are gathered, with the bits of whatever arithmetic made the table. A crop keeps the
image's size: the pixel at (y, x) comes from (y + down, x + right) of the image, and is fill[c] where that lies outside.
A flip follows it and turns columns around. Padding by black pixels, random crops and horizontal flips are customary for
CIFAR (He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2).

Arguments
    samples  `[samples, channels, height, width]`, uint8 with a table or float32 without one, contiguous
    indices  `[agents, batch]` int64, contiguous, each in 0..samples-1 (checked on a CPU)
    out      `[agents, batch, channels, height, width]` float32, contiguous, overwritten
    table    `[channels, 256]` float32: what the levels of a channel stand for; None for float32 samples
    fill     `[channels]` float32: the value of what lies outside of the image; None where nothing is moved
    offsets  `[agents, batch, 2]` int16, (down, right); None where nothing is moved
    flips    `[agents, batch]` bool; None where nothing is moved

Rounding: none, numbers are copied.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from fastsaddle.kernels.arguments import MOST_COLUMNS
from fastsaddle.kernels.op import Op

from .reference import LEVELS, gather_batch_reference


def check(
    samples: torch.Tensor,
    indices: torch.Tensor,
    out: torch.Tensor,
    table: torch.Tensor | None = None,
    fill: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    flips: torch.Tensor | None = None,
) -> None:
    if samples.dim() != 4 or indices.dim() != 2 or 0 in (*samples.shape, *indices.shape):
        raise ValueError(
            "samples must be [samples, channels, height, width] and indices [agents, batch], none of them empty, "
            f"got {list(samples.shape)} and {list(indices.shape)}"
        )
    if prod(samples.shape[1:]) > MOST_COLUMNS:
        raise ValueError(
            f"a sample may have at most {MOST_COLUMNS} numbers, got {list(samples.shape)}"
        )
    if len({value is None for value in (fill, offsets, flips)}) > 1:
        raise ValueError("fill, offsets and flips must be given together, or none of them")
    dtype = torch.float32 if table is None else torch.uint8
    channels, batch = samples.shape[1:2], indices.shape
    for name, tensor, wanted, shape in (
        ("samples", samples, dtype, samples.shape),
        ("indices", indices, torch.int64, batch),
        ("out", out, torch.float32, (*batch, *samples.shape[1:])),
        ("table", table, torch.float32, (*channels, LEVELS)),
        ("fill", fill, torch.float32, channels),
        ("offsets", offsets, torch.int16, (*batch, 2)),
        ("flips", flips, torch.bool, batch),
    ):
        if tensor is not None and (
            tensor.dtype != wanted
            or tensor.device != samples.device
            or tensor.shape != torch.Size(shape)
            or not tensor.is_contiguous()
        ):
            raise ValueError(
                f"{name} must be {wanted} {list(shape)} on {samples.device}, contiguous, "
                f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
            )


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
    schema="(Tensor samples, Tensor indices, Tensor(a!) out, Tensor? table, Tensor? fill, Tensor? offsets, "
    "Tensor? flips)",
    reference=gather_batch_reference,
    check=check,
    folder=__name__,
    examples=examples,
    passes=passes,
    overwrites=("out",),
)
