"""From pixels to a data set of images that stay pixels in memory."""

from collections.abc import Sequence

import numpy as np
import torch

from fastsaddle.sim.data.dataset import Dataset, normalization

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
    return Dataset(
        name=name,
        classes=classes,
        train_inputs=torch.from_numpy(train[0]).to(device),
        train_labels=torch.from_numpy(train[1]).to(device, torch.int64),
        test_inputs=torch.from_numpy(test[0]).to(device),
        test_labels=torch.from_numpy(test[1]).to(device, torch.int64),
        table=normalization(mean, deviation, device),
    )
