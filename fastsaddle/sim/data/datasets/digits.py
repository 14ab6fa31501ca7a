"""Handwritten digits of 8x8 pixels that come with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fastsaddle.sim.data.dataset import Dataset, every_kth


def digits(device: torch.device | str = "cpu") -> Dataset:
    """The digits of scikit-learn: 1,797 images of 1x8x8 in 10 classes.

    Every fifth image of each class is kept for the test.

    Args:
        device: where the samples are to lie.

    Example:
        >>> import fastsaddle as fs
        >>> data = fs.sim.data.digits()
        >>> data.train_inputs.shape, data.test_labels.shape
        (torch.Size([1433, 1, 8, 8]), torch.Size([364]))
    """
    pixels, labels = _pixels_and_labels()
    scaled = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16).float()
    images = ((scaled - 0.3054) / 0.3763).to(device)
    targets = torch.from_numpy(labels).to(device, torch.int64)
    test = torch.from_numpy(every_kth(labels, 5)).to(device)
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train_inputs=images[~test],
        train_labels=targets[~test],
        test_inputs=images[test],
        test_labels=targets[test],
        # the darkest pixel is black
        fill=images.amin((0, 2, 3)),
    )


def _pixels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """`[samples, 64]` float64 in 0 to 16, and `[samples]` int64, from the package's own file.

    Importing scikit-learn, scipy with it, would take longer than a short run; it is asked where the file moved.
    """
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
