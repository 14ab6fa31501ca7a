"""LeNet-5."""

from torch import nn

from fastsaddle.sim.networks._shapes import image_shape


def lenet5(shape: tuple[int, ...], classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling: 61,706 parameters for 1x28x28, 62,006 for 3x32x32.

    LeCun, Bottou, Bengio, Haffner 1998. Images below 32x32 are padded by 2, 28x28 to the 32x32 of the paper.
    Raises ValueError for images below 12x12.
    """
    channels, height, width = image_shape("lenet5", shape, smallest=12, instead="mlp or cnn5")
    padding = 0 if min(height, width) >= 32 else 2
    rows, columns = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in (height, width))
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
