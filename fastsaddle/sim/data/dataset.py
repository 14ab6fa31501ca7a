"""What a data set is: all samples, as tensors on the device that trains."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim.data.samples import Samples

# of a pixel
LEVELS = 256


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test set, the same for every seed.

    Models take what `train` and `test` give.

    Args:
        name: what messages and figures call it.
        classes: names of the classes.
        train_inputs: normalized images `[samples, c, h, w]` or other arrays `[samples, ...]`, float32, or tokens
            `[samples, length]`, int64, smaller than `vocabulary`. Images may stay pixels instead, uint8, in a quarter
            of the memory, with a `table`.
        train_labels: `[samples]`, int64, indices into `classes`.
        test_inputs: like `train_inputs`, of samples of the same shape.
        test_labels: like `train_labels`.
        fill: `[c]`, the normalized value of black, for images only; by default the table's.
        vocabulary: how many tokens there are; None where inputs are no tokens.
        table: `[c, 256]` float32, what each level of a channel of uint8 pixels stands for; `normalization` makes one,
            and batches are normalized as they are taken.

    Raises:
        ValueError: these do not fit together.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
        >>> data = fs.sim.data.Dataset("mine", ("no", "yes"), x[:16], y[:16], x[16:], y[16:])
        >>> data.shape
        (3,)
    """

    name: str
    classes: tuple[str, ...]
    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    fill: Tensor | None = None
    vocabulary: int | None = None
    table: Tensor | None = None

    def __post_init__(self) -> None:
        self._settle()
        self._check("training", self.train_inputs, self.train_labels)
        self._check("test", self.test_inputs, self.test_labels)
        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise ValueError(
                f"{self.name}: training and test inputs must have one shape, "
                f"got {list(self.shape)} and {list(self.test_inputs.shape[1:])}"
            )

    @property
    def train(self) -> Samples:
        """The training inputs, for batches as models take them."""
        return self._samples(self.train_inputs)

    @property
    def test(self) -> Samples:
        """The test inputs, for batches as models take them."""
        return self._samples(self.test_inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, (c, h, w) of an image or (length,) of tokens."""
        return tuple(self.train_inputs.shape[1:])

    def validation(self, fraction: float = 0.1) -> "Dataset":
        """The same data with a part of the training set, which leaves it, as the test set.

        For the choice of hyperparameters, which must not see the test set. Of each class, every k-th training sample in
        file order is taken, k = round(1 / fraction), whatever the seed; a class with one sample keeps it.

        Args:
            fraction: of each class, in (0, 0.5].

        Raises:
            ValueError: another fraction.
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

    def _samples(self, inputs: Tensor) -> Samples:
        return Samples(inputs, self.table if inputs.dtype == torch.uint8 else None, self.fill)

    def _settle(self) -> None:
        """What describes images lies beside them, all of it row by row; black is the table's level 0."""
        device, table, fill = self.train_inputs.device, self.table, self.fill
        for name, value in (("table", table), ("fill", fill)):
            if value is not None and not isinstance(value, Tensor):
                raise ValueError(
                    f"{self.name}: {name} must be a tensor, got {type(value).__name__}"
                )
        if table is not None:
            self._check_table(table)
            fill = table[:, 0] if fill is None else fill
        described = {"table": table, "fill": fill}
        settled = {n: v.to(device, torch.float32) for n, v in described.items() if v is not None}
        settled |= {"train_inputs": self.train_inputs, "test_inputs": self.test_inputs}
        for name, value in settled.items():
            # frozen from here on
            object.__setattr__(self, name, value.contiguous())

    def _check_table(self, table: Tensor) -> None:
        if torch.uint8 not in (self.train_inputs.dtype, self.test_inputs.dtype):
            raise ValueError(
                f"{self.name}: a table is for uint8 images, inputs are {self.train_inputs.dtype}: leave it out"
            )
        shape = self.train_inputs.shape
        if len(shape) != 4 or table.shape != (shape[1], LEVELS):
            raise ValueError(
                f"{self.name}: table must be [channels, {LEVELS}], for images [samples, channels, height, width], "
                f"got {list(table.shape)} for {list(shape)}"
            )

    def _check(self, part: str, inputs: Tensor, labels: Tensor) -> None:
        expected = torch.float32 if self.vocabulary is None else torch.int64
        if inputs.dtype == torch.uint8 and self.table is not None:
            expected = torch.uint8
        if inputs.dtype == torch.uint8 and expected == torch.float32:
            raise ValueError(
                f"{self.name}: {part} inputs are torch.uint8, which needs table=normalization(mean, deviation) "
                "(fastsaddle.sim.data.dataset), or must be normalized and torch.float32"
            )
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


def normalization(
    mean: Sequence[float], deviation: Sequence[float], device: torch.device | str = "cpu"
) -> Tensor:
    """The table `[c, 256]` of pixels v that are to be (v / 255 - mean) / deviation, with one of each a channel.

    Every operation rounds to float32, on the CPU, so that a table has the same bits on every device.

    Args:
        mean: of pixels scaled to [0, 1], one number for each channel.
        deviation: of the same, > 0.
        device: where the table is to lie.

    Raises:
        ValueError: a mean outside of [0, 1], a deviation that is not in (0, 1], or not as many of each.

    Example:
        >>> import fastsaddle as fs
        >>> fs.sim.data.normalization([0.5], [0.5])[0, [0, 255]]
        tensor([-1.,  1.])
    """
    given = f"got mean {mean} and deviation {deviation}"
    if not (isinstance(mean, Sequence) and isinstance(deviation, Sequence)):
        raise ValueError(
            f"mean and deviation must be sequences, a number for each channel, {given}"
        )
    if len(mean) != len(deviation) or not len(mean):
        raise ValueError(f"mean and deviation must have a number for each channel, {given}")
    if not all(0 <= m <= 1 for m in mean) or not all(0 < d <= 1 for d in deviation):
        raise ValueError(
            f"mean must be in [0, 1] and deviation in (0, 1], those of pixels scaled to [0, 1], {given}"
        )
    white = torch.tensor(255.0)
    shift, scale = (
        torch.tensor(numbers, dtype=torch.float32)[:, None] for numbers in (mean, deviation)
    )
    levels = torch.arange(LEVELS, dtype=torch.float32).expand(len(mean), -1)
    return levels.div(white).sub_(shift).div_(scale).to(device)


def every_kth(labels: np.ndarray, k: int) -> np.ndarray:
    """A mask `[samples]` of the first, the (k+1)-th, ... sample of each class that has several."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            mask[members[::k]] = True
    return mask
