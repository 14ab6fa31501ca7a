"""Where the files of a data set lie, and how they come there."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from types import ModuleType


def find_folder(
    title: str,
    data_dir: Path | str | None,
    candidates: Sequence[str],
    files: Sequence[str],
    fetch: Callable[[Path], None] | None = None,
) -> Path:
    """The first of the candidates, folders in `data_dir`, that holds all the files or folders.

    When none does, `fetch`, if given, is to bring them into `data_dir`. Raises ValueError without a
    `data_dir`, FileNotFoundError when files are missing, and what `fetch` raises.
    """
    if data_dir is None:
        raise ValueError(f"{title} needs data_dir, the folder of its files")
    data_dir = Path(data_dir)
    missing = {data_dir / name: _missing(data_dir / name, files) for name in candidates}
    if fetch is not None and all(missing.values()):
        fetch(data_dir)
        missing = {folder: _missing(folder, files) for folder in missing}
    for folder, names in missing.items():
        if not names:
            return folder
    hint = "; --download fetches them" if fetch is None else " after the download"
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{title}: {data_dir} is not a folder{hint}")
    for folder, names in missing.items():
        if len(names) < len(files):
            raise FileNotFoundError(f"{title}: {folder} lacks {_listed(names)}{hint}")
    places = " or ".join(str(folder) for folder in missing)
    raise FileNotFoundError(f"{title}: {_listed(files)} expected in {places}; none found{hint}")


@contextmanager
def downloading(title: str, data_dir: Path) -> Iterator[ModuleType]:
    """`torchvision.datasets`, with which the block is to bring files into `data_dir`.

    Raises ImportError without torchvision, OSError for all that goes wrong on the way.
    """
    try:
        yield importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise ImportError(
            f"--download of {title} needs torchvision: pip install 'fastsaddle[sim]' ({error})"
        ) from error
    except (OSError, RuntimeError, HTTPException) as error:
        cause = " ".join(str(error).split())
        raise OSError(f"{title} could not be downloaded into {data_dir}: {cause}") from error


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [name for name in files if not (folder / name).exists()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
