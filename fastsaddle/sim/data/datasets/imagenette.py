"""Imagenette: photographs of ten easily told classes of ImageNet."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets._files import downloading, find_folder
from fastsaddle.sim.data.datasets._images import Arrays, image_dataset

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
FOLDERS = tuple(f"{part}/{wnid}" for part in ("train", "val") for wnid in CLASSES)
# shorter side in pixels, torchvision's name of the version, its folder
VERSIONS = (
    (160, "160px", "imagenette2-160"),
    (320, "320px", "imagenette2-320"),
    (math.inf, "full", "imagenette2"),
)


def imagenette(
    data_dir: Path | str | None = None,
    download: bool = False,
    device: torch.device | str = "cpu",
    size: int = 128,
) -> Dataset:
    """Imagenette, version 2 (Howard 2019): about 9,500 and 3,900 images of 3 x `size` x `size` in 10 classes.

    Images are resized to `size` along their shorter side and cropped to the center. All are held in memory, 0.66 GB of
    pixels for size 128.

    Args:
        data_dir: holds `train/` and `val/` with a folder of JPEG files for each class, or the folder of a version that
            is large enough: `imagenette2-160`, `imagenette2-320` or `imagenette2`.
        download: fetch the smallest of these into `data_dir` where none is there, which needs torchvision.
        device: where the samples are to lie.
        size: pixels along a side, >= 1.

    Raises:
        ValueError: no `data_dir`, a damaged or missing image, or a size < 1.
        FileNotFoundError: folders are missing and are not to be downloaded.
        ImportError: a download without torchvision.
        OSError: a download fails.
    """
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    versions = [(name, folder) for side, name, folder in VERSIONS if side >= size]

    def fetch(folder: Path) -> None:
        with downloading("imagenette", folder) as datasets:
            datasets.Imagenette(str(folder), split="train", size=versions[0][0], download=True)

    places = ("", *(folder for _, folder in versions), "imagenette")
    folder = find_folder("imagenette", data_dir, places, FOLDERS, fetch if download else None)
    return image_dataset(
        "imagenette",
        tuple(CLASSES.values()),
        _read(folder / "train", size),
        _read(folder / "val", size),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        device,
    )


def _read(folder: Path, size: int) -> Arrays:
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(CLASSES):
        found = sorted(path for path in (folder / wnid).iterdir() if path.suffix.lower() == ".jpeg")
        if not found:
            raise ValueError(f"{folder / wnid} must hold JPEG files, got none")
        paths += found
        labels += [label] * len(found)
    images = np.empty((len(paths), 3, size, size), np.uint8)
    # decoding and resizing leave python's lock to the other threads
    with ThreadPoolExecutor() as pool:
        for i, pixels in enumerate(pool.map(lambda path: _decode(path, size), paths)):
            images[i] = pixels.transpose(2, 0, 1)
    return images, np.array(labels)


def _decode(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(
                ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
            )
    # one that would unpack to far more than a photograph among them
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error
