"""Arrays of .npz and .npy files: as many bytes as are there, never what a header claims; nothing pickled is loaded."""

import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

# deflate makes no more of a byte
MOST_FROM_A_BYTE = 1032
# of the methods of zip, what numpy writes
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], tuple[Any, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(
    path: Path, choose: Callable[[Sequence[str]], Sequence[str]]
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a .npz file that `choose` takes from the names of all.

    Raises ValueError, naming file and array, for a damaged file, for objects, and where a header does not tell the size
    that is there; nothing is allocated before.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    name = "it"
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} must be a .npz file as numpy.savez writes it; it is no zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, path.stat().st_size)
            for name in choose(list(entries)):
                with archive.open(entries[name]) as stream:
                    arrays[name] = _read(stream, entries[name].file_size)
    except Unchosen:
        raise
    # numpy's and zipfile's readers raise whatever damaged bytes lead them to
    except Exception as error:
        raise ValueError(f"{path}: {name} {RULE}: {_line(error)}") from error
    return arrays


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """The array of a .npy file. Raises ValueError as `read_npz` does, and OSError."""
    with path.open("rb") as stream:
        try:
            return _read(stream, path.stat().st_size)
        except Exception as error:
            raise ValueError(f"{path} {RULE}: {_line(error)}") from error


class Unchosen(ValueError):
    """The arrays that are wanted are not there."""


RULE = "must be an undamaged array of numbers (objects would have to be unpickled, which is never done)"


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name in found:
            raise ValueError(f"{name} is given twice")
        packed = entry.compress_size
        most = packed if entry.compress_type == zipfile.ZIP_STORED else MOST_FROM_A_BYTE * packed
        if entry.compress_type not in METHODS or entry.file_size > most:
            raise ValueError(f"{name} cannot be {entry.file_size:,} bytes made of {packed:,}")
        found[name] = entry
    if sum(entry.compress_size for entry in found.values()) > size:
        raise ValueError("its parts are larger than itself")
    return found


def _read(stream: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """The array in a stream of `size` bytes, which its header must tell too."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"format {version} is none of arrays of numbers")
    shape, is_fortran, dtype = HEADERS[version](stream)
    if dtype.hasobject or not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"its header tells of {dtype} {list(shape)}")
    told, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if told != left:
        raise ValueError(f"its header tells of {told:,} bytes, {left:,} are there")
    content = bytearray(told)
    view, begin = memoryview(content), 0
    # read to the end, where the checksum of a zip file is compared
    while begin < told:
        if not (count := stream.readinto(view[begin:])):  # type: ignore[attr-defined]
            raise ValueError(f"it ends after {begin:,} of {told:,} bytes")
        begin += count
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
