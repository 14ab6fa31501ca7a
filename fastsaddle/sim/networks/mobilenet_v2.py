"""MobileNet-V2, with smaller strides for small images."""

from torch import nn

from fastsaddle.sim.networks._convolution import convolution
from fastsaddle.sim.networks._norms import norm_layer
from fastsaddle.sim.networks._shapes import image_shape
from fastsaddle.sim.networks._torchvision import torchvision_models, without_relu

SMALL = 64
# expansion, channels, blocks, stride: the published table but for the second stride, there 2
SMALL_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]


def mobilenet_v2(shape: tuple[int, ...], classes: int, norm: str = "evonorm") -> nn.Module:
    """torchvision's MobileNet-V2: 3,504,872 parameters for 3 channels and 1,000 classes, 2,236,682 for 10.

    Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv:1801.04381. In images below 64x64 the stem and the second stage
    keep the size, so that 32x32 ends as 4x4, as in the public code of arXiv:2209.14390 (which also has convolutions in
    some shortcuts; this is the paper's network). Without dropout, whose random state a resumed run would lack. `norm`:

    * evonorm: EvoNorm-S0 after every convolution, the linear ones too, and no ReLU6, as in that code;
    * groupnorm: 2 groups, and ReLU6;
    * batchnorm: with running statistics, an own copy for each agent; see `fastsaddle.sim.run.batch_statistics`.

    All have the same number of parameters. Raises ValueError for an unknown norm or images below 8x8, ImportError
    without torchvision.
    """
    channels, height, width = image_shape("mobilenet-v2", shape, smallest=8)
    layer = norm_layer(norm)
    small = min(height, width) < SMALL
    model = torchvision_models("mobilenet-v2").MobileNetV2(
        num_classes=classes,
        inverted_residual_setting=SMALL_STAGES if small else None,
        norm_layer=layer,
        dropout=0.0,
    )
    model.features[0][0] = convolution(channels, 32, stride=1 if small else 2)
    return without_relu(model) if norm == "evonorm" else model
