"""CIFAR-10: small photographs in 10 classes."""

from pathlib import Path

import numpy as np
import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._cifar import fetcher, read_records
from fastsaddle.sim.data.datasets._files import find_folder
from fastsaddle.sim.data.datasets._images import image_dataset

FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
# samples
A_FILE = 10_000
FOLDERS = ("", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin")
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
FETCH = fetcher("cifar10", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")


def cifar10(
    data_dir: Path | str | None = None, download: bool = False, device: torch.device | str = "cpu"
) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 images of 3x32x32 in 10 classes (Krizhevsky 2009).

    Args:
        data_dir: the folder of its files: the six of the official binary version, in it or in `cifar-10-batches-bin/`
            or `cifar10/` there.
        download: fetch what is missing into `data_dir`, which needs torchvision.
        device: where the samples are to lie.

    Raises:
        ValueError: no `data_dir`, or a damaged file.
        FileNotFoundError: files are missing and are not to be downloaded.
        ImportError: a download without torchvision.
        OSError: a download fails.
    """
    folder = find_folder("cifar10", data_dir, FOLDERS, FILES, FETCH if download else None)
    train = np.empty((50_000, 3, 32, 32), np.uint8), np.empty(50_000, np.uint8)
    # into one place each: no second copy of all of them is ever there
    for begin, name in zip(range(0, 50_000, A_FILE), FILES[:-1], strict=True):
        for whole, part in zip(
            train, read_records(folder / name, A_FILE, 1, len(CLASSES)), strict=True
        ):
            whole[begin : begin + A_FILE] = part
    test = read_records(folder / FILES[-1], A_FILE, 1, len(CLASSES))
    # the customary constants; the deviations are means of each image's own
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return image_dataset("cifar10", CLASSES, train, test, mean, deviation, device)
