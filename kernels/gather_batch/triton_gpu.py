"""gather_batch in Triton: a program writes a slice of one sample, the table stays in L1."""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.rows.triton_launch import EXACT, STREAM_COLUMNS


@triton.jit
def gather_batch_kernel(
    samples_ptr,
    indices_ptr,
    out_ptr,
    table_ptr,
    fill_ptr,
    offsets_ptr,
    flips_ptr,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    PLANE: tl.constexpr = HEIGHT * WIDTH
    NUMBERS: tl.constexpr = CHANNELS * PLANE
    slices = tl.cdiv(NUMBERS, COLUMNS)
    n = (tl.program_id(0) // slices).to(tl.int64)
    c = tl.program_id(0) % slices * COLUMNS + tl.arange(0, COLUMNS)
    known = c < NUMBERS
    channel = c // PLANE
    sample = samples_ptr + tl.load(indices_ptr + n) * NUMBERS
    if offsets_ptr is None:
        inside, at = known, c
    else:
        x = c % WIDTH
        x = tl.where(tl.load(flips_ptr + n), WIDTH - 1 - x, x)
        x += tl.load(offsets_ptr + 2 * n + 1).to(tl.int32)
        y = c % PLANE // WIDTH + tl.load(offsets_ptr + 2 * n).to(tl.int32)
        inside = known & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
        at = channel * PLANE + y * WIDTH + x
    if table_ptr is None:
        numbers = tl.load(sample + at, mask=inside, other=0.0)
    else:
        level = tl.load(sample + at, mask=inside, other=0).to(tl.int32)
        numbers = tl.load(table_ptr + channel * LEVELS + level, mask=inside, other=0.0)
    if fill_ptr is not None:
        fill = tl.load(fill_ptr + channel, mask=known, other=0.0)
        numbers = tl.where(inside, numbers, fill)
    tl.store(out_ptr + n * NUMBERS + c, numbers, mask=known)


def launch(
    samples: torch.Tensor,
    indices: torch.Tensor,
    out: torch.Tensor,
    table: torch.Tensor | None = None,
    fill: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    flips: torch.Tensor | None = None,
) -> None:
    _, channels, height, width = samples.shape
    slices = triton.cdiv(channels * height * width, STREAM_COLUMNS)
    gather_batch_kernel[(indices.numel() * slices,)](
        samples,
        indices,
        out,
        table,
        fill,
        offsets,
        flips,
        CHANNELS=channels,
        HEIGHT=height,
        WIDTH=width,
        LEVELS=0 if table is None else table.shape[1],
        COLUMNS=STREAM_COLUMNS,
        **EXACT,
    )
