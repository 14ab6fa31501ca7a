"""Inputs of a part of a data set as they lie in memory, and batches of them as models take them."""

import torch
from torch import Tensor

from fastsaddle.kernels.gather_batch import gather_batch


class Samples:
    """Inputs that give what models take, `[n, ...]` float32 or tokens, for a slice, a mask or indices `[n]`.

    A slice of what lies there as models take it is a view, all else is new memory.

    Args:
        inputs: float32, int64 tokens, or uint8 pixels `[samples, c, h, w]`.
        table: `[c, 256]` float32, what the levels of pixels stand for; None for other inputs.
        fill: `[c]` float32, the value of what a crop adds around an image; None where there are none.
    """

    def __init__(
        self, inputs: Tensor, table: Tensor | None = None, fill: Tensor | None = None
    ) -> None:
        self.inputs, self.table, self.fill = inputs, table, fill

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, which: int | slice | Tensor) -> Tensor:
        if self.table is None:
            return self.inputs[which]
        if isinstance(which, slice):
            chosen = torch.arange(*which.indices(len(self)), device=self.device)
        else:
            # masks, negative indices and whatever else torch knows
            chosen = torch.arange(len(self), device=self.device)[which]
        if not chosen.numel():
            return self.inputs.new_empty(*chosen.shape, *self.shape, dtype=torch.float32)
        return self.gather(chosen.reshape(1, -1))[0].view(*chosen.shape, *self.shape)

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.inputs.shape[1:])

    def gather(
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        flips: Tensor | None = None,
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Batches `[agents, batch, ...]`; given offsets and flips, cropped and flipped as the op `gather_batch` does.

        Args:
            indices: `[agents, batch]` int64.
            offsets: `[agents, batch, 2]` int16, for images only.
            flips: `[agents, batch]` bool.
            out: written and returned, where it is given: contiguous, of the batches' shape and dtype.

        Raises:
            ValueError: arguments that do not fit.
            IndexError: an index that names no sample.
        """
        if out is None:
            dtype = self.inputs.dtype if self.table is None else torch.float32
            out = self.inputs.new_empty(*indices.shape, *self.shape, dtype=dtype)
        if out.shape != torch.Size((*indices.shape, *self.shape)):
            raise ValueError(
                f"out must be {[*indices.shape, *self.shape]} for these indices, got {list(out.shape)}"
            )
        if self.table is None and offsets is None:
            torch.index_select(self.inputs, 0, indices.flatten(), out=out.flatten(0, 1))
        else:
            fill = None if offsets is None else self.fill
            gather_batch(self.inputs, indices, out, self.table, fill, offsets, flips)
        return out
