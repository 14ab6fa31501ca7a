"""Opens the compiled CPU library (setup.py builds it from the ops' .cpp files) for ctypes.

It holds no Python or torch symbols. torch is imported first, so that the loader reuses torch's OpenMP runtime.
"""

import ctypes
import hashlib
import importlib.metadata
import logging
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fastsaddle.kernels._shared.buckets.reference import BUCKET_RULE, COUNT_RULE
from fastsaddle.kernels._shared.step.reference import LIST_RULE
from fastsaddle.kernels.arguments import INDEX_RULE, LAYER_RULE

LOG = logging.getLogger(__name__)

SOURCES = (".cpp", ".h")
LIBRARY_NAME = "_native.so"
BUILD_LOG_NAME = "_native_build.txt"


def package_folder() -> Path:
    """The installed `fastsaddle` folder, where the library and the compiler's report lie."""
    import fastsaddle

    return Path(fastsaddle.__file__).parent


def is_checkout() -> bool:
    """Whether the package is imported from its sources."""
    return (package_folder().parent / "setup.py").exists()


def library_path() -> Path | None:
    """The compiled library: that of the package, else, for a checkout, that of the installed package; None without."""
    own = package_folder() / LIBRARY_NAME
    if own.exists():
        return own
    if not is_checkout():
        return None
    installed = importlib.metadata.distributions(name="fastsaddle")
    paths = (Path(str(d.locate_file(f"fastsaddle/{LIBRARY_NAME}"))) for d in installed)
    return next((path for path in paths if path.exists()), None)


@cache
def library() -> ctypes.CDLL:
    """The compiled library. In a checkout without one of its sources a warning says what to do.

    Raises:
        ImportError: it was not built, or the loader refuses it; the compiler's report is quoted.
    """
    try:
        return _opened(library_path())
    except ImportError as error:
        _tell_once(str(error))
        raise


@cache
def _tell_once(reason: str) -> None:
    folder = package_folder()
    if is_checkout() and not (folder / BUILD_LOG_NAME).exists():
        warnings.warn(
            "this checkout has no compiled kernels, plain PyTorch runs instead and is several times slower: run "
            f"python setup.py build_ext --inplace in {folder.parent}, or start Python in another folder to use an "
            f"installed package ({reason})",
            RuntimeWarning,
            stacklevel=3,
        )


def _opened(path: Path | None) -> ctypes.CDLL:
    if path is None:
        raise ImportError(f"the native library was not built ({build_report()})")
    try:
        opened = ctypes.CDLL(str(path))
        opened.fs_sources.restype = ctypes.c_char_p
        compiled_from = opened.fs_sources().decode()
    except (OSError, AttributeError) as error:
        raise ImportError(f"the native library cannot be opened: {error}") from error
    if compiled_from != digest_of_sources():
        raise ImportError(
            "the native library was compiled from other sources: install the package again, "
            "or run python setup.py build_ext --inplace"
        )
    LOG.debug("the native library is %s", path)
    return opened


def digest_of_sources() -> str:
    """SHA-256 of the C++ sources beside this file, as setup.py computes it."""
    folder = Path(__file__).parent
    files = sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.[ch]*") if p.suffix in SOURCES
    )
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()


def build_report() -> str:
    """What the compiler said when the package was built, in one line."""
    path = package_folder() / BUILD_LOG_NAME
    if not path.exists():
        return "no build was tried: install the package, or run python setup.py build_ext --inplace"
    return " ".join(path.read_text().split())[-300:]


# what the exported functions return
REASONS = {
    1: (ValueError, LIST_RULE),
    2: (MemoryError, "no memory for the tiles of a step"),
    3: (ValueError, BUCKET_RULE),
    4: (ValueError, COUNT_RULE),
    5: (IndexError, INDEX_RULE),
    6: (RuntimeError, "a label must be one of the classes, got one that is out of bounds"),
    7: (ValueError, LAYER_RULE),
}


def function(name: str, arguments: Sequence[type]) -> Any:
    """The C function `name`, which takes these types and returns a status.

    Raises:
        ImportError: there is no library, or no such function in it.
    """
    symbol = getattr(library(), name, None)
    if symbol is None:
        raise ImportError(f"the native library has no {name}")
    symbol.argtypes = arguments
    symbol.restype = ctypes.c_int64
    return symbol


def refuse(status: int) -> None:
    """Raise what a function reports; nothing has been written then.

    Raises:
        ValueError: a neighbor list or a table is wrong.
        IndexError: an index names no sample.
        RuntimeError: a label is no class.
        MemoryError: scratch memory could not be had.
    """
    kind, reason = REASONS[status]
    raise kind(reason)
