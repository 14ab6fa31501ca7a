"""Data of one's own: pixels, floats and tokens from a .npz file; nothing pickled is loaded."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsaddle.sim.data.datasets.npz import npz


def labels_of(random: np.random.Generator, samples: int) -> np.ndarray:
    return random.permutation(np.arange(samples) % 4).astype(np.int16)


@pytest.mark.parametrize("shape", [(3, 6, 5), (6, 5)])
def test_pixels(shape: tuple[int, ...], tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    # channels of unlike brightness
    scale = np.array([250, 90, 20])[: shape[0] if len(shape) == 3 else 1].reshape(-1, 1, 1)
    x = (random.random((30, *shape)) * (scale if len(shape) == 3 else 250)).astype(np.uint8)
    x_test = random.integers(0, 256, (11, *shape), dtype=np.uint8)
    y, y_test = labels_of(random, 30), labels_of(random, 11)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    found = npz(path)
    assert found.shape == (3 if len(shape) == 3 else 1, 6, 5)
    assert found.classes == tuple("0123")
    assert found.train[:].mean(dim=(0, 2, 3)).abs().max() < 1e-5
    deviations = found.train[:].std(dim=(0, 2, 3), correction=0)
    assert (deviations - 1).abs().max() < 1e-5
    pixels = x if len(shape) == 4 else x.reshape(30, -1, 6, 5)
    mean, deviation = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    assert found.fill is not None
    assert found.fill.tolist() == pytest.approx((-mean / deviation).tolist(), rel=1e-5)
    again = found.test[:].numpy() * deviation.reshape(-1, 1, 1) + mean.reshape(-1, 1, 1)
    assert np.allclose(again, x_test.reshape(again.shape), atol=1e-3)
    assert np.array_equal(found.train_labels, y)
    assert np.array_equal(found.test_labels, y_test)
    assert torch.equal(npz(tmp_path).train[:], found.train[:])


def test_a_channel_of_one_value(tmp_path: Path, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (8, 2, 3, 3), dtype=np.uint8)
    x[:, 1] = 51
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(8) % 2)
    found = npz(tmp_path)
    assert found.train[:][:, 1].abs().max() < 1e-6
    assert found.fill is not None
    assert found.fill[1].item() == pytest.approx(-0.2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 4, 4)])
def test_floats_without_a_test_set(
    dtype: Any, shape: tuple[int, ...], tmp_path: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(53, *shape)).astype(dtype)
    y = labels_of(random, 53)
    np.savez_compressed(tmp_path / "mine.npz", x=x, y=y)
    found = npz(tmp_path / "mine.npz")
    test = np.sort(np.concatenate([np.flatnonzero(y == label)[::5] for label in range(4)]))
    train = np.setdiff1d(np.arange(53), test)
    assert np.array_equal(found.train[:], x[train].astype(np.float32))
    assert np.array_equal(found.test[:], x[test].astype(np.float32))
    assert np.array_equal(found.train_labels, y[train])
    assert np.array_equal(found.test_labels, y[test])
    assert found.fill is None
    assert found.vocabulary is None


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_tokens(dtype: Any, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "x_train": random.integers(0, 300, (20, 9)).astype(dtype),
        "y_train": labels_of(random, 20),
        "x_test": random.integers(0, 300, (8, 9)).astype(dtype),
        "y_test": labels_of(random, 8),
    }
    arrays["x_test"][3, 4] = 411
    np.savez(tmp_path / "mine.npz", **arrays)
    found = npz(tmp_path)
    assert found.vocabulary == 412
    assert found.train_inputs.dtype == torch.int64
    assert np.array_equal(found.train[:], arrays["x_train"])
    assert np.array_equal(found.test[:], arrays["x_test"])
    assert found.validation(0.5).vocabulary == 412


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    y = np.arange(10) % 2
    floats = np.ones((10, 3))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"x": floats}, "must hold the arrays x_train, y_train, x_test, y_test, or x and y, got x"),
        ({}, "or x and y, got none"),
        ({"x": floats, "y": y / 2}, r"labels must be integers.*got float64 \[10\]"),
        ({"x": floats, "y": y[:9]}, r"got int64 \[9\] for inputs \[10, 3\]"),
        ({"x": floats, "y": y[:, None]}, r"got int64 \[10, 1\] for inputs"),
        ({"x": floats[:0], "y": y[:0]}, "one for each of >= 1 samples"),
        ({"x": floats, "y": np.arange(10)}, "y must hold some class twice"),
        ({"x": floats, "y": y * 50}, "got 50 with only 8 training samples"),
        ({"x": floats, "y": y - 1}, "labels must be 0 to 0, got -1 to 0"),
        ({"x": floats * np.nan, "y": y}, "finite as float32, got NaN or infinity"),
        ({"x": floats * 1e300, "y": y}, "finite as float32, got NaN or infinity"),
        ({"x": floats[:, 0], "y": y}, r"got float64 \[8\] and float64 \[2\]"),
        ({"x": floats > 0, "y": y}, r"got bool \[8, 3\]"),
        ({"x": floats.astype(np.uint8), "y": y}, r"got uint8 \[8, 3\]"),
        ({"x": -floats.astype(int), "y": y}, r"non-negative tokens .* got int64 \[8, 3\]"),
        ({"x": np.ones((10, 3, 3), int), "y": y}, r"got int64 \[8, 3, 3\]"),
        ({"x": np.ones((10, 32, 32, 3), np.uint8), "y": y}, r"save x\.transpose\(0, 3, 1, 2\)"),
        (
            {"x_train": floats, "y_train": y, "x_test": np.ones((10, 4)), "y_test": y},
            r"must have one shape, got \[3\] and \[4\]",
        ),
        (
            {"x_train": floats, "y_train": y, "x_test": np.ones((10, 3), int), "y_test": y},
            r"must both be .*got float64 \[10, 3\] and int64 \[10, 3\]",
        ),
    ]
    for arrays, message in wrong:
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            npz(path)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "unpickled"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    objects = np.array([Trap()] * 6, dtype=object)
    np.savez(tmp_path / "mine.npz", x=objects, y=np.arange(6) % 2)
    with pytest.raises(ValueError, match=r"mine\.npz: x must be .*never done"):
        npz(tmp_path)
    assert not marker.exists()


def test_files_that_are_missing_or_damaged(tmp_path: Path, seed: int) -> None:
    with pytest.raises(ValueError, match=r"npz needs data_dir, a \.npz file or the folder of one"):
        npz()
    with pytest.raises(FileNotFoundError, match="nowhere is neither a file nor a folder"):
        npz(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no \.npz file in"):
        npz(tmp_path)
    path = tmp_path / "b.npz"
    x = np.random.default_rng(seed).normal(size=(50, 6))
    np.savez_compressed(path, x=x, y=np.arange(50) % 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + whole[300:])
    with pytest.raises(ValueError, match=r"b\.npz: \w+ must be an undamaged array|no zip file"):
        npz(path)
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"b\.npz: x must be an undamaged array"):
        npz(path)
    for content in (b"", b"no zip at all", whole[:-40]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.npz must be a \.npz file .* no zip file"):
            npz(path)
    (tmp_path / "a.npz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"must hold one \.npz file, got a\.npz, b\.npz"):
        npz(tmp_path)


def with_header(path: Path, shape: tuple[int, ...], content: bytes) -> None:
    """An archive whose array x tells of a shape that is not there."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    labels = io.BytesIO()
    np.save(labels, np.arange(10) % 2)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", stream.getvalue() + content)
        archive.writestr("y.npy", labels.getvalue())


def test_headers_that_tell_of_more_or_less_than_is_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    tracemalloc.start()
    try:
        for shape, size, said in (
            ((10**12,), 800, "8,000,000,000,000 bytes, 800 are there"),
            ((10**9, 10**9), 800, "8,000,000,000,000,000,000 bytes, 800"),
            ((10, 9), 800, "720 bytes, 800 are there"),
            ((10, 11), 800, "880 bytes, 800 are there"),
            ((10, -10), 800, r"its header tells of float64 \[10, -10\]"),
        ):
            with_header(path, shape, bytes(size))
            with pytest.raises(ValueError, match=f"x must be an undamaged array.*{said}") as error:
                npz(path)
            assert "\n" not in str(error.value)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    with_header(path, (10, 10), np.random.default_rng(0).normal(size=100).tobytes())
    assert npz(path).train_inputs.shape == (8, 10)


def test_what_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    x = np.random.default_rng(0).normal(size=(10, 2))
    np.savez_compressed(path, x=x, y=np.arange(10) % 2, z=np.zeros(8 << 20))
    tracemalloc.start()
    try:
        assert npz(path).shape == (2,)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_labels_and_tokens_that_no_int64_holds(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    x, y = np.ones((10, 3)), (np.arange(10) % 2).astype(np.uint64)
    np.savez(path, x=x, y=y)
    assert npz(path).classes == ("0", "1")
    y[4] = 2**64 - 1
    np.savez(path, x=x, y=y)
    with pytest.raises(ValueError, match=r"smaller than 2\^63, got 18446744073709551615"):
        npz(path)
    for token in (2**64 - 1, 2**63 - 1):
        np.savez(path, x=np.full((10, 3), token, np.uint64), y=np.arange(10) % 2)
        with pytest.raises(ValueError, match="non-negative tokens"):
            npz(path)


def test_fortran_order(tmp_path: Path, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(10, 3)).astype(np.float32)
    np.savez(
        tmp_path / "mine.npz",
        x_train=np.asfortranarray(x),
        y_train=np.arange(10) % 2,
        x_test=x,
        y_test=np.arange(10) % 2,
    )
    found = npz(tmp_path)
    assert np.array_equal(found.train[:], x) and np.array_equal(found.test[:], x)
