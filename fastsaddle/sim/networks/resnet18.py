"""ResNet-18 for images of ImageNet's kind."""

from torch import nn

from fastsaddle.sim.networks._convolution import convolution
from fastsaddle.sim.networks._norms import norm_layer
from fastsaddle.sim.networks._shapes import image_shape
from fastsaddle.sim.networks._torchvision import torchvision_models, without_relu


def resnet18(shape: tuple[int, ...], classes: int, norm: str = "evonorm") -> nn.Module:
    """torchvision's ResNet-18 with its ImageNet stem: 11,689,512 parameters for 3 channels and 1,000 classes.

    He, Zhang, Ren, Sun 2015, arXiv:1512.03385. `norm`:

    * evonorm: EvoNorm-S0 after every convolution and no ReLU at all, the network of the public code of
      arXiv:2209.14390;
    * groupnorm: 2 groups, and ReLU;
    * batchnorm: with running statistics, an own copy for each agent; see `fastsaddle.sim.run.batch_statistics`.

    All have the same number of parameters. Raises ValueError for an unknown norm or images below 32x32, ImportError
    without torchvision.
    """
    channels, *_ = image_shape("resnet18", shape, smallest=32, instead="resnet20")
    layer = norm_layer(norm)
    model = torchvision_models("resnet18").resnet18(
        weights=None, num_classes=classes, norm_layer=layer
    )
    model.conv1 = convolution(channels, 64, size=7, stride=2)
    return without_relu(model) if norm == "evonorm" else model
