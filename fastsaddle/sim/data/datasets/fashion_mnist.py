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
    data_dir: Path | None = None, download: bool = False, device: torch.device | str = "cpu"
) -> Dataset:
    """60,000 and 10,000 images of 1x28x28 in 10 classes (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747).

    The four idx.gz files lie in `data_dir` itself, in `fashion-mnist/` or, as torchvision leaves
    them, in `FashionMNIST/raw/`. Raises FileNotFoundError when files are missing and are not to be
    downloaded, ValueError for a damaged file, OSError when a download fails.
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
