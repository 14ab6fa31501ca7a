"""What a data set is: all samples, normalized, as tensors on the device that trains."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test set, the same for every seed.

    Inputs are normalized images `[samples, c, h, w]` or other arrays `[samples, ...]`, float32, or
    tokens `[samples, length]`, int64, smaller than `vocabulary`. Labels are `[samples]`, int64,
    indices into `classes`. `fill` is `[c]`, the normalized value of black, for images only.
    Raises ValueError when these do not fit together.
    """

    name: str
    classes: tuple[str, ...]
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    fill: Tensor | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        self._check("training", self.train_inputs, self.train_labels)
        self._check("test", self.test_inputs, self.test_labels)
        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise ValueError(
                f"{self.name}: training and test inputs must have one shape, "
                f"got {list(self.shape)} and {list(self.test_inputs.shape[1:])}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (c, h, w) of an image, (length,) of tokens."""
        return tuple(self.train_inputs.shape[1:])

    def validation(self, fraction: float = 0.1) -> "Dataset":
        """The same data with a part of the training set, which leaves it, as the test set.

        For the choice of hyperparameters, which must not see the test set. Of each class, every
        k-th training sample in file order is taken, k = round(1 / fraction), whatever the seed; a
        class with one sample keeps it. Raises ValueError for a fraction outside (0, 0.5].
        """
        if not 0 < fraction <= 0.5:
            raise ValueError(f"fraction must be in (0, 0.5], got {fraction}")
        labels = self.train_labels.cpu().numpy()
        held = torch.from_numpy(every_kth(labels, round(1 / fraction))).to(self.train_labels.device)
        return replace(
            self,
            train_inputs=self.train_inputs[~held],
            train_labels=self.train_labels[~held],
            test_inputs=self.train_inputs[held],
            test_labels=self.train_labels[held],
        )

    def _check(self, part: str, inputs: Tensor, labels: Tensor) -> None:
        expected = torch.float32 if self.vocabulary is None else torch.int64
        if inputs.dtype != expected or inputs.dim() < 2 or 0 in inputs.shape[1:]:
            raise ValueError(
                f"{self.name}: {part} inputs must be {expected} [samples, ...], "
                f"got {inputs.dtype} {list(inputs.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != inputs.shape[:1] or len(labels) == 0:
            raise ValueError(
                f"{self.name}: {part} labels must be torch.int64, one for each of >= 1 samples, "
                f"got {labels.dtype} {list(labels.shape)} for {len(inputs)} samples"
            )
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise ValueError(
                f"{self.name}: {part} labels must be 0 to {len(self.classes) - 1}, "
                f"got {int(labels.min())} to {int(labels.max())}"
            )


def every_kth(labels: np.ndarray, k: int) -> np.ndarray:
    """A mask `[samples]` of the first, the (k+1)-th, ... sample of each class that has several."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            mask[members[::k]] = True
    return mask
