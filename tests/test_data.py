"""Data sets: whole, normalized, split the same way for every seed; damaged files are named."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from fastsaddle.sim import data, data_files

FASHION_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.shape == (1, 8, 8)
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert len(digits.test_labels) == pytest.approx(0.2 * 1797, rel=0.02)
    share = torch.bincount(digits.test_labels) / torch.bincount(
        torch.cat([digits.train_labels, digits.test_labels])
    )
    assert torch.allclose(share, torch.full((10,), 0.2), atol=0.01)
    assert digits.train_images.mean().abs() < 0.001
    assert (digits.train_images.std() - 1).abs() < 0.001
    everything = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797


def test_fashion_mnist_in_every_layout(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip("no fashion-mnist/ in --data-dir")
    found = data.load("fashion-mnist", data_dir)
    assert found.train_images.shape == (60_000, 1, 28, 28)
    assert found.test_images.shape == (10_000, 1, 28, 28)
    assert torch.bincount(found.train_labels).tolist() == [6000] * 10
    assert torch.bincount(found.test_labels).tolist() == [1000] * 10
    assert found.train_images.mean().abs() < 0.001
    assert (found.train_images.std() - 1).abs() < 0.001
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(folder)
    torchvision_layout = data.load("fashion-mnist", tmp_path)
    assert torch.equal(torchvision_layout.test_images, found.test_images)
    assert torch.equal(data.load("fashion-mnist", folder).test_labels, found.test_labels)


def test_cifar10(cifar10_dir: Path) -> None:
    found = data.load("cifar10", cifar10_dir)
    assert found.train_images.shape == (50_000, 3, 32, 32)
    assert torch.bincount(found.train_labels).tolist() == [5000] * 10
    assert torch.bincount(found.test_labels).tolist() == [1000] * 10
    assert found.train_images.mean(dim=(0, 2, 3)).abs().max() < 0.001
    # the usual constants are means of each image's deviation, a fifth below the pixels'
    assert (found.train_images.std(dim=(0, 2, 3)) - 1.25).abs().max() < 0.06


def fake_fashion_mnist(folder: Path, seed: int) -> None:
    content = np.random.default_rng(seed).bytes(5000)
    for name in FASHION_FILES:
        (folder / name).write_bytes(gzip.compress(content))


def test_fashion_mnist_files_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz.* none found"):
        data.load("fashion-mnist", tmp_path)
    fake_fashion_mnist(tmp_path, seed)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz must hold 60000x28x28"):
        data.load("fashion-mnist", tmp_path)
    first = tmp_path / FASHION_FILES[0]
    whole = first.read_bytes()
    for damaged in (whole[:-100], b"", whole[:50] + whole[60:], b"no gzip at all"):
        first.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
            data.load("fashion-mnist", tmp_path)
    (tmp_path / FASHION_FILES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks t10k-labels-idx1-ubyte\.gz"):
        data.load("fashion-mnist", tmp_path)


def test_cifar10_files_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin expected in"):
        data.load("cifar10", tmp_path)
    random = np.random.default_rng(seed)
    for name in data_files.CIFAR10_FILES:
        (tmp_path / name).write_bytes(random.bytes(10_000 * 3073 - 1))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin must have 30730000 bytes"):
        data.load("cifar10", tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(random.bytes(10_000 * 3073))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin must hold labels 0 to 9, got 2"):
        data.load("cifar10", tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_4\.bin"):
        data.load("cifar10", tmp_path)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset must be digits or one of fashion-mnist, cifar10"):
        data.load("mnist")
    with pytest.raises(ValueError, match="cifar10 needs the folder of its files"):
        data.load("cifar10")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        data.load("fashion-mnist", tmp_path / "nowhere")
