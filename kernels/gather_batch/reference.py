"""gather_batch in plain PyTorch."""

import torch

from fastsaddle.kernels.arguments import INDEX_RULE

# of a pixel
LEVELS = 256


def gather_batch_reference(
    samples: torch.Tensor,
    indices: torch.Tensor,
    out: torch.Tensor,
    table: torch.Tensor | None = None,
    fill: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None,
    flips: torch.Tensor | None = None,
) -> None:
    # a GPU's own kernels look at indices, without the host
    if indices.device.type == "cpu" and not 0 <= int(indices.min()) <= int(indices.max()) < len(
        samples
    ):
        raise IndexError(INDEX_RULE)
    numbers = samples[indices]
    if table is not None:
        by_channel = numbers.movedim(2, 0)
        found = table.gather(1, by_channel.flatten(1).long())
        numbers = found.view(by_channel.shape).movedim(0, 2)
    if fill is not None and offsets is not None and flips is not None:
        numbers = moved(numbers, fill, offsets.long(), flips)
    out.copy_(numbers)


def moved(
    images: torch.Tensor, fill: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor
) -> torch.Tensor:
    """Crops `[agents, batch, channels, height, width]` of images, then flips."""
    height, width = images.shape[3:]
    place = torch.arange(width, device=images.device)
    x = offsets[..., 1:] + torch.where(flips[..., None], place.flip(0), place)
    y = offsets[..., :1] + torch.arange(height, device=images.device)
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    at = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    at = at[:, :, None].expand(images.shape).flatten(3)
    found = images.flatten(3).gather(3, at).view(images.shape)
    return torch.where(inside[:, :, None], found, fill[:, None, None])
