"""Your own data from a .npz file of numpy arrays."""

from pathlib import Path

import numpy as np
import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._images import image_dataset
from fastsaddle.sim.data.datasets._npz_file import find_npz, read_npz


def npz(data_dir: Path | str | None = None, device: torch.device | str = "cpu") -> Dataset:
    """A data set of your own, as `numpy.savez` writes it.

    Its arrays are `x_train`, `y_train`, `x_test` and `y_test`, or `x` and `y` alone. Labels are integers `[samples]`
    from 0 on; without a test set every fifth sample of each class becomes it. The inputs' type decides:

    * uint8 `[samples, c, h, w]` or `[samples, h, w]`: pixels, divided by 255 and normalized by mean and deviation of
      the training set's channels (a constant channel by its mean only);
    * floats `[samples, ...]`: taken as they are, as float32;
    * wider integers `[samples, length]`: tokens, with a vocabulary of the largest one plus 1.

    Nothing pickled is loaded.

    Args:
        data_dir: the file, or a folder with only one .npz.
        device: where the samples are to lie.

    Raises:
        ValueError: no `data_dir`, a damaged file, or arrays of other types or shapes.
        FileNotFoundError: there is no such file.
    """
    path = find_npz(data_dir)
    (x_train, y_train), (x_test, y_test) = read_npz(path)
    inputs = (x_train, x_test)
    largest = max(y_train.max(), y_test.max())
    if largest >= len(y_train):
        raise ValueError(
            f"{path}: labels must number the classes from 0 on, got {largest} with only "
            f"{len(y_train)} training samples"
        )
    classes = tuple(str(label) for label in range(1 + largest))
    if all(x.dtype == np.uint8 and x.ndim in (3, 4) for x in inputs):
        train, test = (_with_channels(path, x) for x in inputs)
        moments = _moments(train)
        return image_dataset("npz", classes, (train, y_train), (test, y_test), *moments, device)
    vocabulary = None
    if all(np.issubdtype(x.dtype, np.floating) and x.ndim >= 2 for x in inputs):
        with np.errstate(over="ignore"):
            tensors = [torch.from_numpy(x.astype(np.float32)) for x in inputs]
        if not all(x.isfinite().all() for x in tensors):
            raise ValueError(f"{path}: inputs must be finite as float32, got NaN or infinity")
    elif all(_is_tokens(x) for x in inputs):
        tensors = [torch.from_numpy(x.astype(np.int64)) for x in inputs]
        vocabulary = 1 + int(max(x.max() for x in inputs))
    else:
        found = " and ".join(f"{x.dtype} {list(x.shape)}" for x in inputs)
        raise ValueError(
            f"{path}: training and test inputs must both be uint8 pixels [samples, c, h, w] or "
            "[samples, h, w], floats [samples, ...] or non-negative tokens [samples, length] of a "
            f"wider integer type, got {found}"
        )
    return Dataset(
        name="npz",
        classes=classes,
        train_inputs=tensors[0].to(device),
        train_labels=torch.from_numpy(y_train).to(device),
        test_inputs=tensors[1].to(device),
        test_labels=torch.from_numpy(y_test).to(device),
        vocabulary=vocabulary,
    )


def _is_tokens(x: np.ndarray) -> bool:
    is_wide = np.issubdtype(x.dtype, np.integer) and x.dtype.itemsize > 1
    fits = is_wide and x.ndim == 2 and x.size > 0
    # the vocabulary is one more
    return bool(fits and x.min() >= 0 and x.max() < np.iinfo(np.int64).max)


def _with_channels(path: Path, pixels: np.ndarray) -> np.ndarray:
    """`[samples, c, h, w]`, refusing what looks like channels in the last place."""
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.shape[3] <= 4 < pixels.shape[1]:
        raise ValueError(
            f"{path}: pixels must be [samples, c, h, w], got {list(pixels.shape)}, which looks "
            "like [samples, h, w, c]: save x.transpose(0, 3, 1, 2)"
        )
    return pixels


def _moments(pixels: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of `[samples, c, h, w]`, scaled to [0, 1]."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        # counting is exact, so the moments do not depend on the order of a summation
        share = np.bincount(pixels[:, channel].ravel(), minlength=256) / pixels[:, channel].size
        mean = float((share * levels).sum())
        means.append(mean)
        deviations.append(float(np.sqrt((share * (levels - mean) ** 2).sum())) or 1.0)
    return means, deviations
