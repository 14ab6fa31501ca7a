"""The networks of the simulator, initialized from a seed; torch's global random state is kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 50


def build(name: str, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """A network for images of `shape` (channels, height, width); equal seeds give equal weights.

    Raises ValueError for an unknown name or for images too small for the network.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](shape, classes)


def mlp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """One hidden layer of 50: 784-50-10 has 39,760 parameters, 64-50-10 has 3,760."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )


def lenet5(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling: 61,706 parameters for 1x28x28, 62,006 for 3x32x32.

    LeCun, Bottou, Bengio, Haffner 1998. Images of 28x28 are padded to the 32x32 of the paper.
    """
    channels, height, width = shape
    padding = 0 if min(height, width) >= 32 else 2
    rows, columns = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(
            f"lenet5 needs images of at least 12x12, got {height}x{width}: use mlp or cnn5"
        )
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * rows * columns, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


class EvoNorm(nn.Module):
    """EvoNorm-S0 with its inner coefficient fixed to 1: activation and normalization, batch-free.

    Liu, Brock, Simonyan, Le 2020, arXiv:2004.02967; as in the public code of Aketi, Kodge, Roy 2022
    (Neighborhood Gradient Clustering, arXiv:2209.14390): the gate is the hard sigmoid.
    Nothing depends on the batch, so averaging agents needs no new statistics.
    """

    def __init__(self, channels: int, groups: int = 8, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, height, width]` to the same shape."""
        grouped = x.unflatten(1, (self.groups, -1))
        variance = grouped.var(dim=(2, 3, 4), keepdim=True, correction=0)
        normalized = F.hardswish(grouped) / torch.sqrt(variance + self.eps)
        return normalized.flatten(1, 2) * self.weight + self.bias


def cnn5(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Four 3x3 convolutions with EvoNorm and one linear layer: 76,010 parameters for 3x32x32.

    The 5-layer network of Neighborhood Gradient Clustering's public code (arXiv:2209.14390).
    """
    channels, height, width = shape
    rows, columns = height // 8, width // 8
    if min(rows, columns) < 1:
        raise ValueError(f"cnn5 needs images of at least 8x8, got {height}x{width}: use mlp")

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return [layer, EvoNorm(outputs)]

    return nn.Sequential(
        *convolution(channels, 32),
        *convolution(32, 32),
        nn.MaxPool2d(2),
        *convolution(32, 64),
        nn.MaxPool2d(2),
        *convolution(64, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * rows * columns, classes),
    )


MODELS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "cnn5": cnn5,
}
