"""Opens the compiled CPU library (setup.py builds it from the ops' .cpp files) for ctypes.

It holds no Python or torch symbols. torch is imported first, so that the loader reuses torch's OpenMP runtime.
"""

import ctypes
import hashlib
import importlib.metadata
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastsaddle.kernels import threads
from fastsaddle.kernels._shared.buckets.reference import BUCKET_RULE, COUNT_RULE
from fastsaddle.kernels._shared.step.reference import LIST_RULE
from fastsaddle.kernels.arguments import INDEX_RULE

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
        folder = package_folder()
        if is_checkout() and not (folder / BUILD_LOG_NAME).exists():
            warnings.warn(
                "this checkout has no compiled kernels, plain PyTorch runs instead and is several times slower: run "
                f"python setup.py build_ext --inplace in {folder.parent}, or start Python in another folder to use an "
                f"installed package ({error})",
                RuntimeWarning,
                stacklevel=2,
            )
        raise


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


POINTER = ctypes.c_void_p
INT = ctypes.c_int64

# what the exported functions return
REASONS = {
    1: (ValueError, LIST_RULE),
    2: (MemoryError, "no memory for the tiles of a step"),
    3: (ValueError, BUCKET_RULE),
    4: (ValueError, COUNT_RULE),
    5: (IndexError, INDEX_RULE),
    6: (RuntimeError, "a label must be one of the classes, got one that is out of bounds"),
}


def function(name: str, arguments: Sequence[type]) -> Any:
    """The C symbol `name`; its last parameter is the number of threads, and is not in `arguments`."""
    symbol = getattr(library(), name)
    symbol.argtypes = [*arguments, INT]
    symbol.restype = INT
    return symbol


def call(symbol: Any, *arguments: int | None) -> None:
    """Call `symbol` with torch's number of threads (one in a forked child), and raise what it reports.

    Raises:
        ValueError: a neighbor list or a table is wrong; nothing was written.
        IndexError: an index names no sample; nothing was written.
        RuntimeError: a label is no class; nothing was written.
        MemoryError: scratch memory could not be had; nothing was written.
    """
    status = symbol(*arguments, threads.count())
    if status:
        kind, reason = REASONS[status]
        raise kind(reason)


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's first element lies; None stays None (a null pointer)."""
    return None if tensor is None else tensor.data_ptr()


def rows(tensor: torch.Tensor | None) -> tuple[int | None, int]:
    """A `[agents, columns]` buffer as address and row stride; None as a null pointer."""
    return (None, 0) if tensor is None else (tensor.data_ptr(), tensor.stride(0))


def state(tensor: torch.Tensor | None) -> tuple[int | None, int, int]:
    """A buffer that may be float32 or bfloat16: address, row stride, and whether it is bfloat16."""
    return *rows(tensor), tensor is not None and tensor.dtype == torch.bfloat16


def scalar(tensor: torch.Tensor) -> tuple[int, int]:
    """A per-agent argument as address and step: step 0 is one value for all agents."""
    return tensor.data_ptr(), min(tensor.dim(), 1)
