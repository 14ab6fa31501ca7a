"""Training and test arrays of a .npz file, checked; nothing pickled is ever loaded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastsaddle.sim.data import arrays as arrays_of
from fastsaddle.sim.data.dataset import every_kth
from fastsaddle.sim.data.datasets._images import Arrays

TEST_EVERY = 5
SPLIT = ("x_train", "y_train", "x_test", "y_test")


def find_npz(data_dir: Path | str | None) -> Path:
    """The file itself, or the only .npz of a folder. Raises ValueError or FileNotFoundError."""
    if data_dir is None:
        raise ValueError("npz needs data_dir, a .npz file or the folder of one")
    data_dir = Path(data_dir)
    if data_dir.is_file():
        return data_dir
    if not data_dir.is_dir():
        raise FileNotFoundError(f"npz: {data_dir} is neither a file nor a folder")
    found = sorted(data_dir.glob("*.npz"))
    if not found:
        raise FileNotFoundError(f"npz: no .npz file in {data_dir}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"npz: {data_dir} must hold one .npz file, got {names}: name the file")
    return found[0]


def read_npz(path: Path) -> tuple[Arrays, Arrays]:
    """Training and test set as (inputs `[samples, ...]`, labels `[samples]` int64).

    Raises ValueError, naming the file and the array.
    """
    arrays = arrays_of.read_npz(path, lambda names: _wanted(path, names))
    if "x_train" in arrays:
        train, test = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
        return _checked(path, *train), _checked(path, *test)
    inputs, labels = _checked(path, arrays["x"], arrays["y"])
    is_test = every_kth(labels, TEST_EVERY)
    if not is_test.any():
        raise ValueError(f"{path}: y must hold some class twice, to take a test set from")
    return (inputs[~is_test], labels[~is_test]), (inputs[is_test], labels[is_test])


def _wanted(path: Path, names: Sequence[str]) -> Sequence[str]:
    for wanted in (SPLIT, ("x", "y")):
        if set(wanted) <= set(names):
            return wanted
    raise arrays_of.Unchosen(
        f"{path} must hold the arrays {', '.join(SPLIT)}, or x and y, "
        f"got {', '.join(n if n.isprintable() else ascii(n) for n in names) or 'none'}"
    )


def _checked(path: Path, inputs: np.ndarray, labels: np.ndarray) -> Arrays:
    is_integer = np.issubdtype(labels.dtype, np.integer)
    if not is_integer or labels.ndim != 1 or labels.shape != inputs.shape[:1] or not labels.size:
        raise ValueError(
            f"{path}: labels must be integers, one for each of >= 1 samples, "
            f"got {labels.dtype} {list(labels.shape)} for inputs {list(inputs.shape)}"
        )
    if labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{path}: labels must be smaller than 2^63, got {labels.max()}")
    return inputs, labels.astype(np.int64)
