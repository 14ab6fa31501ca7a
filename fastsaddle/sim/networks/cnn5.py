"""The small convolutional network of Neighborhood Gradient Clustering."""

from torch import nn

from fastsaddle.sim.networks._convolution import convolution
from fastsaddle.sim.networks._norms import EvoNormHardSwish
from fastsaddle.sim.networks._shapes import image_shape


def cnn5(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Four 3x3 convolutions with EvoNorm and one linear layer: 76,010 parameters for 3x32x32.

    As in the public code of Aketi, Kodge, Roy 2022, arXiv:2209.14390. Raises ValueError for images below 8x8.
    """
    channels, height, width = image_shape("cnn5", shape, smallest=8)

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [convolution(inputs, outputs), EvoNormHardSwish(outputs)]

    return nn.Sequential(
        *layer(channels, 32),
        *layer(32, 32),
        nn.MaxPool2d(2),
        *layer(32, 64),
        nn.MaxPool2d(2),
        *layer(64, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 8) * (width // 8), classes),
    )
