"""CIFAR-100: small photographs in 100 classes."""

from pathlib import Path

import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._cifar import fetcher, read_records
from fastsaddle.sim.data.datasets._cifar100_names import FINE_NAMES
from fastsaddle.sim.data.datasets._files import find_folder
from fastsaddle.sim.data.datasets._images import image_dataset

FILES = ("train.bin", "test.bin")
FOLDERS = ("", "cifar-100-binary", "cifar100", "cifar100/cifar-100-binary")
FETCH = fetcher("cifar100", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")


def cifar100(
    data_dir: Path | str | None = None, download: bool = False, device: torch.device | str = "cpu"
) -> Dataset:
    """CIFAR-100: 50,000 and 10,000 images of 3x32x32 in the 100 fine classes (Krizhevsky 2009).

    Args:
        data_dir: the folder of its files: the two of the official binary version, in it or in `cifar-100-binary/` or
            `cifar100/` there.
        download: fetch what is missing into `data_dir`, which needs torchvision.
        device: where the samples are to lie.

    Raises:
        ValueError: no `data_dir`, or a damaged file.
        FileNotFoundError: files are missing and are not to be downloaded.
        ImportError: a download without torchvision.
        OSError: a download fails.
    """
    folder = find_folder("cifar100", data_dir, FOLDERS, FILES, FETCH if download else None)
    # a record has the coarse label first
    train = read_records(folder / "train.bin", 50_000, 2, len(FINE_NAMES))
    test = read_records(folder / "test.bin", 10_000, 2, len(FINE_NAMES))
    mean, deviation = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    return image_dataset("cifar100", FINE_NAMES, train, test, mean, deviation, device)
