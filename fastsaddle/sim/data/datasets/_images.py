"""From pixels to a data set of normalized images; the same bits on every device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim.data.dataset import Dataset

Arrays = tuple[np.ndarray, np.ndarray]


def image_dataset(
    name: str,
    classes: tuple[str, ...],
    train: Arrays,
    test: Arrays,
    mean: Sequence[float],
    deviation: Sequence[float],
    device: torch.device | str,
) -> Dataset:
    """A data set of (images `[samples, c, h, w]` uint8, labels `[samples]` integer), twice.

    `mean` and `deviation` are one for each channel, of pixels scaled to [0, 1].
    """
    black = np.zeros((1, len(mean), 1, 1), np.uint8)
    return Dataset(
        name=name,
        classes=classes,
        train_inputs=_normalized(train[0], mean, deviation, device),
        train_labels=torch.from_numpy(train[1]).to(device, torch.int64),
        test_inputs=_normalized(test[0], mean, deviation, device),
        test_labels=torch.from_numpy(test[1]).to(device, torch.int64),
        fill=_normalized(black, mean, deviation, device).flatten(),
    )


def _normalized(
    images: np.ndarray,
    mean: Sequence[float],
    deviation: Sequence[float],
    device: torch.device | str,
) -> Tensor:
    # a division by a number would be a multiplication by its reciprocal on GPUs
    white = torch.tensor(255.0, device=device)
    shift = torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1)
    scale = torch.tensor(deviation, dtype=torch.float32, device=device).view(-1, 1, 1)
    return torch.from_numpy(images).to(device).float().div_(white).sub_(shift).div_(scale)
