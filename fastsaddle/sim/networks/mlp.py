"""A perceptron with one hidden layer."""

import math

from torch import nn


def mlp(
    shape: tuple[int, ...], classes: int, vocabulary: int | None = None, hidden: int = 50
) -> nn.Module:
    """One hidden layer of ReLU: 784-50-10 has 39,760 parameters, 64-50-10 has 3,760.

    Takes samples of any shape. Raises ValueError for tokens, or for less than one hidden unit.
    """
    if vocabulary is not None:
        raise ValueError(
            f"mlp needs images or other numbers, got tokens of a vocabulary of {vocabulary}: "
            "use transformer"
        )
    if hidden < 1:
        raise ValueError(f"mlp: hidden must be >= 1, got {hidden}")
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
