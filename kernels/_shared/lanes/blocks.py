"""Blocks of samples: `[agents, batch, ...]` as `[agents, blocks, ..., BLOCK]`, for ops whose lanes are samples."""

import torch
from torch import Tensor
from torch.nn import functional as F

# floats of the widest register
BLOCK = 16


def to_blocks(samples: Tensor, repeats: bool = False) -> Tensor:
    """`[agents, batch, ...]` to `[agents, blocks, ..., BLOCK]`: zeros behind the last sample, or with `repeats` itself.

    Inputs are repeated: what is not finite in a lane without a sample would spoil sums, in which it has no part.
    Where all agents have the same samples in the same memory, so they do in blocks.
    """
    agents, batch = samples.shape[:2]
    if agents > 1 and samples.stride(0) == 0:
        return to_blocks(samples[:1], repeats).expand(agents, *[-1] * samples.dim())
    blocks = -(-batch // BLOCK)
    if missing := blocks * BLOCK - batch:
        if repeats:
            last = samples[:, -1:].expand(-1, missing, *samples.shape[2:])
            samples = torch.cat((samples, last), 1)
        else:
            samples = F.pad(samples, (*[0] * (2 * samples.dim() - 4), 0, missing))
    return samples.unflatten(1, (blocks, BLOCK)).movedim(2, -1).contiguous()


def to_samples(blocks: Tensor, batch: int) -> Tensor:
    """The inverse of `to_blocks`, for so many samples."""
    return blocks.movedim(-1, 2).flatten(1, 2)[:, :batch]
