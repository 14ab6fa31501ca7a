"""Data sets: whole, normalized, split the same way for every seed; damaged files are named."""

import gzip
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.datasets import _idx
from fastsaddle.sim.data.datasets import cifar10 as cifar10_file
from fastsaddle.sim.data.datasets import imagenette as imagenette_file
from fastsaddle.sim.data.datasets._cifar import read_records
from fastsaddle.sim.data.datasets.cifar10 import cifar10
from fastsaddle.sim.data.datasets.cifar100 import cifar100
from fastsaddle.sim.data.datasets.digits import digits
from fastsaddle.sim.data.datasets.fashion_mnist import fashion_mnist
from fastsaddle.sim.data.datasets.imagenette import imagenette
from fastsaddle.sim.data.datasets.mnist import mnist

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
# samples of each digit, as published with MNIST
MNIST_COUNTS = (
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
)


def pixels_again(inputs: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Normalized images back to the bytes that they came from."""
    shape = (-1, 1, 1)
    return (inputs * torch.tensor(deviation).view(shape) + torch.tensor(mean).view(shape)) * 255


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + sizes + array.tobytes(), compresslevel=1))


def fake_idx(folder: Path, seed: int, counts: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    """Four files with labels of these counts in random order; their contents."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[np.ndarray] = []
    for part in counts:
        labels = random.permutation(np.repeat(np.arange(10, dtype=np.uint8), part))
        # a few patterns again and again, which are quick to compress
        patterns = random.integers(0, 256, (37, 28, 28), dtype=np.uint8)
        written += [patterns[np.arange(len(labels)) % 37], labels]
    for name, array in zip(IDX_FILES, written, strict=True):
        write_idx(folder / name, array)
    return written


class Torchvision(ModuleType):
    """In place of torchvision, which would need the network: notes what it is asked for."""

    def __init__(self, act: Callable[..., None]) -> None:
        super().__init__("torchvision.datasets")
        self.asked: list[tuple[Any, ...]] = []
        self.utils = ModuleType("torchvision.datasets.utils")

        def ask(name: str) -> Callable[..., None]:
            def noted(*arguments: Any, **options: Any) -> None:
                self.asked.append((name, arguments, options))
                act(*arguments)

            return noted

        for name in ("MNIST", "FashionMNIST", "Imagenette"):
            setattr(self, name, ask(name))
        vars(self.utils)["download_and_extract_archive"] = ask("archive")


def install(monkeypatch: pytest.MonkeyPatch, act: Callable[..., None]) -> Torchvision:
    stand_in = Torchvision(act)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", stand_in)
    return stand_in


def test_digits() -> None:
    from sklearn.datasets import load_digits

    found = digits()
    assert found.shape == (1, 8, 8)
    assert found.name == "digits"
    assert len(found.train_labels) + len(found.test_labels) == 1797
    assert found.train[:].mean().abs() < 0.001
    assert (found.train[:].std() - 1).abs() < 0.001
    everything = torch.cat([found.train[:], found.test[:]]).flatten(1)
    assert len(everything.unique(dim=0)) == 1797
    assert found.fill is not None
    assert found.fill.tolist() == [everything.min().item()]
    # the 1st, 6th, 11th, ... of each class, counted one by one
    pixels, labels = load_digits(return_X_y=True)
    seen = [0] * 10
    test: list[int] = []
    for i, label in enumerate(labels):
        if seen[label] % 5 == 0:
            test.append(i)
        seen[label] += 1
    again = pixels_again(found.test[:], (0.3054,), (0.3763,)).flatten(1) / 255 * 16
    assert np.allclose(again, pixels[test], atol=1e-4)
    assert found.test_labels.tolist() == labels[test].tolist()


def test_fashion_mnist_in_every_layout(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip("no fashion-mnist/ in --data-dir")
    found = fashion_mnist(data_dir)
    assert found.name == "fashion-mnist"
    assert found.train_inputs.shape == (60_000, 1, 28, 28)
    assert found.test_inputs.shape == (10_000, 1, 28, 28)
    assert torch.bincount(found.train_labels).tolist() == [6000] * 10
    assert torch.bincount(found.test_labels).tolist() == [1000] * 10
    assert found.train[:].mean().abs() < 0.001
    assert (found.train[:].std() - 1).abs() < 0.001
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(folder)
    torchvision_layout = fashion_mnist(tmp_path)
    assert torch.equal(torchvision_layout.test[:], found.test[:])
    assert torch.equal(fashion_mnist(folder).test_labels, found.test_labels)
    with pytest.raises(ValueError, match=r"must hold the labels of mnist, \[5923, .*got \[6000"):
        mnist(folder)


def test_mnist(tmp_path: Path, seed: int) -> None:
    written = fake_idx(tmp_path / "MNIST" / "raw", seed, MNIST_COUNTS)
    found = mnist(tmp_path)
    assert found.classes == tuple("0123456789")
    for inputs, expected in ((found.train[:], written[0]), (found.test[:], written[2])):
        assert inputs.shape == (len(expected), 1, 28, 28)
        again = pixels_again(inputs[::41], (0.1307,), (0.3081,))
        assert np.allclose(again[:, 0], expected[::41], atol=1e-3)
    assert np.array_equal(found.train_labels, written[1])
    assert np.array_equal(found.test_labels, written[3])
    assert found.fill is not None
    assert found.fill.tolist() == pytest.approx([-0.1307 / 0.3081])
    with pytest.raises(ValueError, match=r"train-labels.* the labels of fashion-mnist, \[6000"):
        fashion_mnist(tmp_path / "MNIST")


def test_idx_files_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"ubyte\.gz.* none found; --download fetches them"):
        fashion_mnist(tmp_path)
    content = np.random.default_rng(seed).bytes(5000)
    for name in IDX_FILES:
        (tmp_path / name).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz must hold 60000x28x28"):
        fashion_mnist(tmp_path)
    first = tmp_path / IDX_FILES[0]
    whole = first.read_bytes()
    for damaged in (whole[:-100], b"", whole[:50] + whole[60:], b"no gzip at all"):
        first.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
            fashion_mnist(tmp_path)
    (tmp_path / IDX_FILES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks t10k-labels-idx1-ubyte\.gz; --download"):
        fashion_mnist(tmp_path)


def test_cifar10(cifar10_dir: Path) -> None:
    found = cifar10(cifar10_dir)
    assert found.shape == (3, 32, 32)
    assert torch.bincount(found.train_labels).tolist() == [5000] * 10
    assert torch.bincount(found.test_labels).tolist() == [1000] * 10
    inputs = found.train[:]
    assert inputs.mean(dim=(0, 2, 3)).abs().max() < 0.001
    # the usual constants are means of each image's deviation, a fifth below the pixels'
    assert (inputs.std(dim=(0, 2, 3)) - 1.25).abs().max() < 0.06
    assert found.fill is not None
    assert torch.equal(found.fill, inputs.amin(dim=(0, 2, 3)))


def test_cifar10_takes_few_bytes(tmp_path: Path) -> None:
    for name in cifar10_file.FILES:
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(10_000 * 3073)
    tracemalloc.start()
    try:
        found = cifar10(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(t.nbytes for t in vars(found).values() if isinstance(t, Tensor)) <= 200e6
    # one file more, twice: as records and as images
    assert peak <= 260e6


def test_cifar10_files_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin expected in .* none found"):
        cifar10(tmp_path)
    random = np.random.default_rng(seed)
    for name in cifar10_file.FILES:
        (tmp_path / name).write_bytes(random.bytes(100))
    first = tmp_path / "data_batch_1.bin"
    with pytest.raises(ValueError, match=r"data_batch_1\.bin must have 30730000 bytes .*got 100"):
        cifar10(tmp_path)
    first.write_bytes(random.bytes(10_000 * 3073))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin must hold labels 0 to 9, got 2"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_4\.bin; --download fetches"):
        cifar10(tmp_path)


def test_cifar_records_byte_by_byte(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    for label_bytes in (1, 2):
        content = bytearray(random.bytes(7 * (label_bytes + 3072)))
        size = label_bytes + 3072
        labels = random.integers(0, 100, 7)
        for record, label in enumerate(labels):
            content[record * size + label_bytes - 1] = label
        (tmp_path / "some.bin").write_bytes(content)
        images, found = read_records(tmp_path / "some.bin", 7, label_bytes, 100)
        assert found.tolist() == labels.tolist()
        for record, channel, y, x in random.integers(0, (7, 3, 32, 32), (50, 4)):
            position = record * size + label_bytes + channel * 1024 + y * 32 + x
            assert images[record, channel, y, x] == content[position]


def test_cifar100(tmp_path: Path, seed: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.bin, test\.bin expected in"):
        cifar100(tmp_path)
    random = np.random.default_rng(seed)
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    records = {}
    for name, samples in (("train.bin", 50_000), ("test.bin", 10_000)):
        # coarse labels of 100 and more would be refused if they were taken for fine ones
        record = np.full((samples, 3074), 200, np.uint8)
        record[:, 1] = random.integers(0, 100, samples)
        record[:, 2::50] = random.integers(0, 256, (samples, 62))
        record.tofile(folder / name)
        records[name] = record
    found = cifar100(tmp_path)
    assert np.array_equal(found.train_labels, records["train.bin"][:, 1])
    assert np.array_equal(found.test_labels, records["test.bin"][:, 1])
    mean, deviation = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    again = pixels_again(found.test[::41], mean, deviation)
    expected = records["test.bin"][::41, 2:].reshape(-1, 3, 32, 32)
    assert np.allclose(again, expected, atol=1e-3)
    assert len(set(found.classes)) == 100
    assert list(found.classes) == sorted(found.classes)
    assert (found.classes[0], found.classes[53], found.classes[99]) == ("apple", "orange", "worm")


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=95)


def fake_imagenette(folder: Path, seed: int) -> dict[str, list[int]]:
    """One-colored images of each class, more of the later ones; the gray levels, file by file."""
    random = np.random.default_rng(seed)
    grays: dict[str, list[int]] = {"train": [], "val": []}
    for part, levels in grays.items():
        for label, wnid in enumerate(imagenette_file.CLASSES):
            for i in range(1 + label % 3):
                gray = int(random.integers(0, 256))
                shape = (40 + 7 * i, 61) if i % 2 else (50, 50, 3)
                write_jpeg(folder / part / wnid / f"{i}.JPEG", np.full(shape, gray, np.uint8))
                levels.append(gray)
    return grays


def test_imagenette(tmp_path: Path, seed: int) -> None:
    grays = fake_imagenette(tmp_path / "imagenette2-160", seed)
    found = imagenette(tmp_path, size=32)
    assert found.shape == (3, 32, 32)
    assert found.classes[1] == "English springer"
    expected = [label for label in range(10) for _ in range(1 + label % 3)]
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for part, inputs, labels in (
        ("train", found.train[:], found.train_labels),
        ("val", found.test[:], found.test_labels),
    ):
        assert labels.tolist() == expected
        again = pixels_again(inputs, mean, deviation)
        assert (again - torch.tensor(grays[part]).view(-1, 1, 1, 1)).abs().max() < 3
    assert imagenette(tmp_path / "imagenette2-160").shape == (3, 128, 128)
    with pytest.raises(
        FileNotFoundError, match=r"imagenette2-320 or .*imagenette2 or .*none found"
    ):
        imagenette(tmp_path, size=200)
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        imagenette(tmp_path, size=0)


def test_imagenette_crops_the_center(tmp_path: Path, seed: int) -> None:
    fake_imagenette(tmp_path, seed)
    first = next(iter(imagenette_file.CLASSES))
    thirds = np.zeros((48, 144, 3), np.uint8)
    for third in range(3):
        thirds[:, third * 48 : third * 48 + 48, third] = 255
    for name, pixels in (("0.JPEG", thirds), ("1.jpeg", thirds.swapaxes(0, 1))):
        write_jpeg(tmp_path / "train" / first / name, pixels)
    (tmp_path / "train" / first / "notes.txt").write_text("no image")
    found = imagenette(tmp_path, size=24).train[:2]
    again = pixels_again(found, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    green = torch.tensor([0.0, 255.0, 0.0]).view(3, 1, 1)
    assert (again - green)[:, :, 2:-2, 2:-2].abs().max() < 12


def test_imagenette_images_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    with pytest.raises(FileNotFoundError, match=r"train/n01440764, .* and 14 more expected in"):
        imagenette(tmp_path)
    fake_imagenette(tmp_path, seed)
    damaged = tmp_path / "val" / "n03394916" / "0.JPEG"
    whole = damaged.read_bytes()
    for content in (whole[:-200], b"", b"no image"):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"n03394916/0\.JPEG is not a readable image"):
            imagenette(tmp_path, size=16)
    damaged.unlink()
    for left in damaged.parent.iterdir():
        left.unlink()
    with pytest.raises(ValueError, match="n03394916 must hold JPEG files, got none"):
        imagenette(tmp_path, size=16)


def test_download_of_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int) -> None:
    def act(root: str) -> None:
        fake_idx(Path(root) / "MNIST" / "raw", seed, MNIST_COUNTS)

    torchvision = install(monkeypatch, act)
    target = tmp_path / "new"
    first = mnist(target, download=True)
    assert torchvision.asked == [("MNIST", (str(target),), {"download": True})]
    # what is there is not fetched again
    assert torch.equal(mnist(target, download=True).test[:], first.test[:])
    assert len(torchvision.asked) == 1


@pytest.mark.parametrize(
    ("load", "archive", "md5"),
    [
        (cifar10, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        (cifar100, "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    ],
)
def test_download_of_cifar(
    load: Callable[..., Dataset],
    archive: str,
    md5: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    torchvision = install(monkeypatch, lambda *_: None)
    with pytest.raises(FileNotFoundError, match="none found after the download"):
        load(tmp_path, download=True)
    address = f"https://www.cs.toronto.edu/~kriz/{archive}"
    assert torchvision.asked == [("archive", (address, str(tmp_path)), {"md5": md5})]


@pytest.mark.parametrize(
    ("size", "version", "folder"),
    [
        (160, "160px", "imagenette2-160"),
        (161, "320px", "imagenette2-320"),
        (500, "full", "imagenette2"),
    ],
)
def test_download_of_imagenette(
    size: int,
    version: str,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    seed: int,
) -> None:
    def act(root: str) -> None:
        fake_imagenette(Path(root) / folder, seed)

    torchvision = install(monkeypatch, act)
    assert imagenette(tmp_path, download=True, size=size).shape == (3, size, size)
    options = {"split": "train", "size": version, "download": True}
    assert torchvision.asked == [("Imagenette", (str(tmp_path),), options)]


@pytest.mark.parametrize("load", [mnist, fashion_mnist, cifar10, cifar100, imagenette])
@pytest.mark.parametrize(
    "error", [URLError("no route"), RuntimeError("tried:\n no\nroute\n"), OSError("no route")]
)
def test_offline(
    load: Callable[..., Dataset],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def act(*_: str) -> None:
        raise error

    install(monkeypatch, act)
    name = load.__name__.replace("_", "-")
    with pytest.raises(OSError, match=f"{name} could not be downloaded into .*no route"):
        load(tmp_path, download=True)


@pytest.mark.parametrize("load", [mnist, fashion_mnist, cifar10, cifar100, imagenette])
def test_arguments_of_all_that_need_files(
    load: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = load.__name__.replace("_", "-")
    with pytest.raises(ValueError, match=f"{name} needs data_dir, the folder of its files"):
        load()
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; --download fetches them"):
        load(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    with pytest.raises(
        ImportError, match=rf"{name} needs torchvision: pip install 'fastsaddle\[sim\]'"
    ):
        load(tmp_path, download=True)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.26, 0.013])
def test_validation(fraction: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = 1003
    labels = random.integers(0, 7, samples)
    # a class with one sample
    labels[random.integers(samples)] = 7
    inputs = torch.arange(1.0, samples + 1)[:, None]
    whole = Dataset(
        name="some",
        classes=tuple("abcdefgh"),
        train_inputs=inputs,
        train_labels=torch.from_numpy(labels),
        test_inputs=-inputs[:9],
        test_labels=torch.from_numpy(labels[:9]),
    )
    found = whole.validation(fraction)
    k = round(1 / fraction)
    expected: list[float] = []
    for label in range(7):
        expected += [i + 1.0 for i in np.flatnonzero(labels == label)][::k]
    assert sorted(found.test[:][:, 0].tolist()) == sorted(expected)
    together = torch.cat([found.train[:], found.test[:]])[:, 0]
    assert torch.equal(together.sort().values, inputs[:, 0])
    for some_inputs, some_labels in (
        (found.train[:], found.train_labels),
        (found.test[:], found.test_labels),
    ):
        # still in the order of the file, each with its own label
        assert torch.equal(some_inputs.sort(dim=0).values, some_inputs)
        assert np.array_equal(labels[some_inputs[:, 0].long() - 1], some_labels)
    assert (found.train_labels == 7).sum() == 1
    assert (found.name, found.classes, found.shape) == (whole.name, whole.classes, whole.shape)
    assert len(whole.train_labels) == samples


def test_validation_of_what_cannot_be_split() -> None:
    for fraction in (0.0, -0.1, 0.6, float("nan")):
        with pytest.raises(ValueError, match=r"fraction must be in \(0, 0\.5\], got"):
            digits().validation(fraction)


def test_refusals_of_a_data_set() -> None:
    right: dict[str, Any] = {
        "name": "mine",
        "classes": ("a", "b"),
        "train_inputs": torch.ones(4, 3),
        "train_labels": torch.tensor([0, 1, 1, 0]),
        "test_inputs": torch.ones(2, 3),
        "test_labels": torch.tensor([1, 0]),
    }
    assert Dataset(**right).shape == (3,)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"train_inputs": torch.ones(4, 3).double()}, r"training inputs must be torch\.float32"),
        ({"test_inputs": torch.ones(2)}, r"test inputs must be torch\.float32 .* \[2\]"),
        ({"test_inputs": torch.ones(2, 0)}, r"test inputs must be torch\.float32 .* \[2, 0\]"),
        ({"vocabulary": 5}, r"training inputs must be torch\.int64"),
        ({"test_inputs": torch.ones(2, 4)}, r"must have one shape, got \[3\] and \[4\]"),
        ({"train_labels": torch.tensor([0, 1])}, r"got torch\.int64 \[2\] for 4 samples"),
        ({"test_labels": torch.tensor([0.0, 1.0])}, r"got torch\.float32 \[2\] for 2 samples"),
        ({"test_labels": torch.tensor([0, 2])}, "test labels must be 0 to 1, got 0 to 2"),
        ({"test_labels": torch.tensor([-1, 1])}, "test labels must be 0 to 1, got -1 to 1"),
        (
            {"test_inputs": torch.ones(0, 3), "test_labels": torch.ones(0, dtype=torch.int64)},
            "one for each of >= 1 samples",
        ),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=f"mine: .*{message}"):
            Dataset(**(right | change))


def test_a_gzip_that_unpacks_to_more_than_is_due(tmp_path: Path, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    path = tmp_path / "images.gz"
    write_idx(path, image)
    assert np.array_equal(_idx.read_idx(path, (3, 4, 4)), image)
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole + bytes(64 << 20)))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="got more than 64 bytes that start with 00000803"):
            _idx.read_idx(path, (3, 4, 4))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    for damaged in (whole[:-1], whole + b"0", whole[4:]):
        path.write_bytes(gzip.compress(damaged))
        with pytest.raises(ValueError, match=r"images\.gz must hold 3x4x4 unsigned bytes"):
            _idx.read_idx(path, (3, 4, 4))
    packed = gzip.compress(whole)
    for damaged in (packed[:-3], packed + b"more", packed[:-8] + bytes(8)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"images\.gz is truncated or damaged"):
            _idx.read_idx(path, (3, 4, 4))
