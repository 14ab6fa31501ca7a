"""MNIST: handwritten digits."""

from pathlib import Path

import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._idx import idx_dataset


def mnist(
    data_dir: Path | str | None = None, download: bool = False, device: torch.device | str = "cpu"
) -> Dataset:
    """MNIST: 60,000 and 10,000 images of 1x28x28 in 10 classes (LeCun, Bottou, Bengio, Haffner 1998).

    Args:
        data_dir: the folder of its files: four idx.gz files, in it or in `mnist/` or, as torchvision leaves them,
            `MNIST/raw/` there.
        download: fetch what is missing into `data_dir`, which needs torchvision.
        device: where the samples are to lie.

    Raises:
        ValueError: no `data_dir`, or a damaged file.
        FileNotFoundError: files are missing and are not to be downloaded.
        ImportError: a download without torchvision.
        OSError: a download fails.
    """
    return idx_dataset(
        name="mnist",
        torchvision_class="MNIST",
        classes=tuple("0123456789"),
        mean=0.1307,
        deviation=0.3081,
        train_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        test_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        data_dir=data_dir,
        download=download,
        device=device,
    )
