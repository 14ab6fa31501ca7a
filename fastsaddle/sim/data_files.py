"""Read Fashion-MNIST's idx.gz files and CIFAR-10's binary files; no pickle is ever loaded."""

import gzip
import zlib
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]

CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def read_fashion_mnist(data_dir: Path) -> tuple[Arrays, Arrays]:
    """Training and test set as (images `[samples, 1, 28, 28]`, labels `[samples]`), uint8.

    The four files lie in `data_dir` itself, in `fashion-mnist/` or, as torchvision leaves them, in
    `FashionMNIST/raw/`. Raises FileNotFoundError or ValueError, naming the file.
    """
    shapes = {
        "train-images-idx3-ubyte.gz": (60_000, 28, 28),
        "train-labels-idx1-ubyte.gz": (60_000,),
        "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte.gz": (10_000,),
    }
    folders = ("", "fashion-mnist", "FashionMNIST/raw", "raw")
    folder = _folder(data_dir, folders, tuple(shapes), "Fashion-MNIST")
    arrays = [_read_idx(folder / name, shape) for name, shape in shapes.items()]
    _check_labels(folder / "train-labels-idx1-ubyte.gz", arrays[1])
    _check_labels(folder / "t10k-labels-idx1-ubyte.gz", arrays[3])
    return (arrays[0][:, None], arrays[1]), (arrays[2][:, None], arrays[3])


def read_cifar10(data_dir: Path) -> tuple[Arrays, Arrays]:
    """Training and test set as (images `[samples, 3, 32, 32]`, labels `[samples]`), uint8.

    The six files of the official binary version lie in `data_dir` itself, in
    `cifar-10-batches-bin/` or in `cifar10/`. Raises FileNotFoundError or ValueError, naming the
    file.
    """
    folders = ("", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin")
    folder = _folder(data_dir, folders, CIFAR10_FILES, "CIFAR-10")
    records = [_read_cifar10_file(folder / name) for name in CIFAR10_FILES]
    images = [record[:, 1:].reshape(-1, 3, 32, 32) for record in records]
    labels = [record[:, 0] for record in records]
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return train, (images[-1], labels[-1].copy())


def _folder(
    data_dir: Path, candidates: tuple[str, ...], names: tuple[str, ...], title: str
) -> Path:
    """The first candidate holding any of the files, which then must hold all of them."""
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{title}: {data_dir} is not a folder")
    for candidate in candidates:
        folder = data_dir / candidate
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(names):
            raise FileNotFoundError(f"{title}: {folder} lacks {', '.join(missing)}")
    places = " or ".join(str(data_dir / candidate) for candidate in candidates)
    raise FileNotFoundError(f"{title}: {', '.join(names)} expected in {places}; none found")


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A gzipped idx file of unsigned bytes: 0, 0, 8, rank, the sizes as big-endian int32, data."""
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    header = bytes((0, 0, 8, len(shape))) + np.array(shape, dtype=">i4").tobytes()
    expected = len(header) + int(np.prod(shape))
    if not content.startswith(header) or len(content) != expected:
        size = "x".join(map(str, shape))
        raise ValueError(
            f"{path} must hold {size} unsigned bytes in idx format ({expected} bytes unpacked), "
            f"got {len(content)} bytes that start with {content[: len(header)].hex()}"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()


def _read_cifar10_file(path: Path) -> np.ndarray:
    """10,000 records `[10000, 3073]`: a label, then the red, green and blue planes."""
    expected = 10_000 * 3073
    size = path.stat().st_size
    if size != expected:
        raise ValueError(f"{path} must have {expected} bytes (10,000 images), got {size}")
    records = np.fromfile(path, np.uint8).reshape(10_000, 3073)
    _check_labels(path, records[:, 0])
    return records


def _check_labels(path: Path, labels: np.ndarray) -> None:
    if labels.max() > 9:
        raise ValueError(f"{path} must hold labels 0 to 9, got {labels.max()}")
