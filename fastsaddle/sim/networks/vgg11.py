"""VGG-11 in the narrow form used for CIFAR in the decentralized learning literature."""

from torch import nn

from fastsaddle.sim.networks._convolution import convolution
from fastsaddle.sim.networks._norms import EvoNormHardSwish
from fastsaddle.sim.networks._shapes import image_shape

# each stage ends with max-pooling
STAGES = ((16,), (32,), (64, 64), (128, 128), (128, 128))


def vgg11(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Eight 3x3 convolutions of 16 to 128 channels with EvoNorm and one linear layer: 579,786 parameters for 3x32x32.

    Simonyan, Zisserman 2014, arXiv:1409.1556, configuration A at a quarter of its width and with a single linear layer,
    as in the public code of Aketi, Hashemi, Roy 2023 (Global Update Tracking, arXiv:2305.04792). Our choices: images
    below 32x32 are padded to it by the first convolution, and what five halvings leave of larger ones is averaged.

    Raises ValueError for images below 28x28.
    """
    channels, height, width = image_shape("vgg11", shape, smallest=28, instead="cnn5 or resnet20")
    missing = max(0, 32 - min(height, width))
    layers: list[nn.Module] = []
    inputs, padding = channels, 1 + -(-missing // 2)
    for stage in STAGES:
        for outputs in stage:
            layers += [
                convolution(inputs, outputs, padding=padding, bias=True),
                EvoNormHardSwish(outputs),
            ]
            inputs, padding = outputs, 1
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
