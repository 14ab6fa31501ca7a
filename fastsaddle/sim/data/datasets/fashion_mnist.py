"""Fashion-MNIST: pictures of clothes, as many and as large as MNIST's digits."""

from pathlib import Path

import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._idx import idx_dataset

CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def fashion_mnist(
    data_dir: Path | str | None = None, download: bool = False, device: torch.device | str = "cpu"
) -> Dataset:
    """Fashion-MNIST: 60,000 and 10,000 images of 1x28x28 in 10 classes (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747).

    Args:
        data_dir: the folder of its files: four idx.gz files, in it or in `fashion-mnist/` or, as torchvision leaves
            them, `FashionMNIST/raw/` there.
        download: fetch what is missing into `data_dir`, which needs torchvision.
        device: where the samples are to lie.

    Raises:
        ValueError: no `data_dir`, or a damaged file.
        FileNotFoundError: files are missing and are not to be downloaded.
        ImportError: a download without torchvision.
        OSError: a download fails.
    """
    return idx_dataset(
        name="fashion-mnist",
        torchvision_class="FashionMNIST",
        classes=CLASSES,
        mean=0.2860,
        deviation=0.3530,
        train_counts=(6000,) * 10,
        test_counts=(1000,) * 10,
        data_dir=data_dir,
        download=download,
        device=device,
    )
