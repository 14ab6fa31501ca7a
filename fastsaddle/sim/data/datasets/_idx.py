"""MNIST and the data sets made to its measure: four gzipped idx files."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._files import downloading, find_folder
from fastsaddle.sim.data.datasets._images import Arrays, image_dataset

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def idx_dataset(
    name: str,
    torchvision_class: str,
    classes: tuple[str, ...],
    mean: float,
    deviation: float,
    train_counts: Sequence[int],
    test_counts: Sequence[int],
    data_dir: Path | str | None,
    download: bool,
    device: torch.device | str,
) -> Dataset:
    """60,000 and 10,000 images of 1x28x28.

    The files lie in `data_dir` itself, in a folder called `name` or in torchvision's own folder.
    `train_counts` and `test_counts` are the samples of each class, by which the data sets are told
    apart: their files have the same names and sizes. Raises FileNotFoundError or ValueError, naming
    the file, and what a download raises.
    """

    def fetch(folder: Path) -> None:
        with downloading(name, folder) as datasets:
            getattr(datasets, torchvision_class)(str(folder), download=True)

    places = ("", name, f"{torchvision_class}/raw", "raw")
    names = (*FILES["train"], *FILES["test"])
    folder = find_folder(name, data_dir, places, names, fetch if download else None)
    return image_dataset(
        name,
        classes,
        _read_part(folder, name, "train", train_counts),
        _read_part(folder, name, "test", test_counts),
        (mean,),
        (deviation,),
        device,
    )


def _read_part(folder: Path, name: str, part: str, counts: Sequence[int]) -> Arrays:
    images_path, labels_path = (folder / file for file in FILES[part])
    images = read_idx(images_path, (sum(counts), 28, 28))
    labels = read_idx(labels_path, (sum(counts),))
    found = np.bincount(labels, minlength=len(counts))
    if found.tolist() != list(counts):
        raise ValueError(
            f"{labels_path} must hold the labels of {name}, {list(counts)} samples of its classes, "
            f"got {found[: len(counts)].tolist()} and labels up to {labels.max()}"
        )
    return images[:, None], labels


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A gzipped idx file of unsigned bytes: 0, 0, 8, rank, the sizes as big-endian int32, data."""
    header = bytes((0, 0, 8, len(shape))) + np.array(shape, dtype=">i4").tobytes()
    expected = len(header) + int(np.prod(shape))
    try:
        with gzip.open(path) as stream:
            # a small file may unpack to anything: one byte more than is due shows that it is too much
            content = stream.read(expected)
            more = stream.read(1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if not content.startswith(header) or len(content) != expected or more:
        size = "x".join(map(str, shape))
        raise ValueError(
            f"{path} must hold {size} unsigned bytes in idx format ({expected} bytes unpacked), got "
            f"{'more than ' if more else ''}{len(content)} bytes that start with {content[: len(header)].hex()}"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()
