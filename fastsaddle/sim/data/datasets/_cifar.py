"""The official binary versions of CIFAR-10 and CIFAR-100; their pickled ones are never read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastsaddle.sim.data.datasets._files import downloading
from fastsaddle.sim.data.datasets._images import Arrays

SOURCE = "https://www.cs.toronto.edu/~kriz/"
PIXELS = 3 * 32 * 32


def fetcher(title: str, archive: str, md5: str) -> Callable[[Path], None]:
    """What brings an archive of the data set's home page into a folder and unpacks it there."""

    def fetch(folder: Path) -> None:
        with downloading(title, folder) as datasets:
            datasets.utils.download_and_extract_archive(SOURCE + archive, str(folder), md5=md5)

    return fetch


def read_records(path: Path, samples: int, label_bytes: int, classes: int) -> Arrays:
    """(images `[samples, 3, 32, 32]`, labels `[samples]`), uint8.

    A record is `label_bytes` labels, the last of which counts, then the red, green and blue planes.
    Raises ValueError, naming the file.
    """
    expected = samples * (label_bytes + PIXELS)
    size = path.stat().st_size
    if size != expected:
        raise ValueError(f"{path} must have {expected} bytes ({samples:,} images), got {size}")
    records = np.fromfile(path, np.uint8).reshape(samples, label_bytes + PIXELS)
    labels = records[:, label_bytes - 1].copy()
    if labels.max() >= classes:
        raise ValueError(f"{path} must hold labels 0 to {classes - 1}, got {labels.max()}")
    return records[:, label_bytes:].reshape(samples, 3, 32, 32), labels
