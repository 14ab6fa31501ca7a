"""The data sets of the simulator, whole and normalized, as tensors on the device that trains."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim import data_files


@dataclass(frozen=True)
class Dataset:
    """Normalized images `[samples, channels, height, width]` float32, labels `[samples]` int64."""

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


def load(name: str, data_dir: Path | None = None, device: torch.device | str = "cpu") -> Dataset:
    """Load `digits`, `fashion-mnist` or `cifar10`, the last two from `data_dir`.

    The split into training and test set is fixed: no seed changes what a model is tested on.
    Raises ValueError for an unknown name or a damaged file, FileNotFoundError for a missing one.
    """
    if name == "digits":
        return _digits(device)
    if name not in _FOLDERS:
        raise ValueError(f"dataset must be digits or one of {', '.join(_FOLDERS)}, got {name!r}")
    if data_dir is None:
        raise ValueError(f"{name} needs the folder of its files")
    read, classes, mean, deviation = _FOLDERS[name]
    (train_images, train_labels), (test_images, test_labels) = read(data_dir)
    return Dataset(
        name=name,
        classes=classes,
        train_images=_normalized(train_images, mean, deviation, device),
        train_labels=torch.from_numpy(train_labels).to(device, torch.int64),
        test_images=_normalized(test_images, mean, deviation, device),
        test_labels=torch.from_numpy(test_labels).to(device, torch.int64),
    )


def _digits(device: torch.device | str) -> Dataset:
    """1,797 images of 8x8; every fifth image of each class is kept for the test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16).float()
    images = ((images - 0.3054) / 0.3763).to(device)
    targets = torch.from_numpy(labels).to(device, torch.int64)
    test = torch.from_numpy(is_test).to(device)
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train_images=images[~test],
        train_labels=targets[~test],
        test_images=images[test],
        test_labels=targets[test],
    )


def _normalized(
    images: np.ndarray,
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
    device: torch.device | str,
) -> Tensor:
    scaled = torch.from_numpy(images).to(device).float().div_(255)
    shift = torch.tensor(mean, device=device).view(-1, 1, 1)
    scale = torch.tensor(deviation, device=device).view(-1, 1, 1)
    return scaled.sub_(shift).div_(scale)


_FOLDERS = {
    "fashion-mnist": (
        data_files.read_fashion_mnist,
        (
            *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
        (0.2860,),
        (0.3530,),
    ),
    "cifar10": (
        data_files.read_cifar10,
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
}
