"""ResNet-20 for small images, in the variants of the decentralized learning literature."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from fastsaddle.sim.networks._convolution import convolution
from fastsaddle.sim.networks._norms import GROUPS, EvoNormHardSwish, EvoNormSwish
from fastsaddle.sim.networks._shapes import image_shape

WIDTHS = (16, 32, 64)
BLOCKS_A_STAGE = 3

Layer = Callable[[int], nn.Module]


class Family(NamedTuple):
    """`active` normalizes and activates (stem, a block's first convolution), `plain` is the norm of a block's second
    convolution and of the shortcut, `after` follows the residual sum."""

    active: Layer
    plain: Layer
    after: Callable[[], nn.Module]


def _group_norm_relu(channels: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.ReLU())


FAMILIES = {
    "ngc": Family(EvoNormHardSwish, EvoNormHardSwish, nn.Identity),
    "qgm": Family(EvoNormSwish, partial(nn.BatchNorm2d, track_running_stats=False), nn.ReLU),
    "groupnorm": Family(_group_norm_relu, partial(nn.GroupNorm, GROUPS), nn.ReLU),
}


def resnet20(shape: tuple[int, ...], classes: int, family: str = "ngc") -> nn.Module:
    """ResNet-20 with widths 16, 32, 64 and 1x1 convolutions as shortcuts: 272,474 parameters for 3x32x32, 10 classes.

    He, Zhang, Ren, Sun 2015, arXiv:1512.03385. The families are those of public code:

    * ngc (arXiv:2209.14390): EvoNorm-S0 with a hard gate after every convolution, no ReLU after the residual sum;
    * qgm (arXiv:2102.04761): EvoNorm-S0 after the stem and the first convolution of a block, BatchNorm without running
      statistics after the second and in the shortcut, ReLU after the sum; in evaluation too a sample's outputs depend
      on its batch;
    * groupnorm (arXiv:2102.04761): GroupNorm with 2 groups, and ReLU.

    Raises ValueError for an unknown family or images below 8x8.
    """
    channels, *_ = image_shape("resnet20", shape, smallest=8)
    if family not in FAMILIES:
        raise ValueError(f"resnet20: family must be one of {', '.join(FAMILIES)}, got {family!r}")
    layers = FAMILIES[family]
    blocks: list[nn.Module] = []
    inputs = WIDTHS[0]
    for width in WIDTHS:
        for _ in range(BLOCKS_A_STAGE):
            blocks.append(Block(inputs, width, layers))
            inputs = width
    return nn.Sequential(
        convolution(channels, WIDTHS[0]),
        layers.active(WIDTHS[0]),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(WIDTHS[-1], classes),
    )


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; one that widens halves height and width."""

    def __init__(self, inputs: int, outputs: int, family: Family) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            family.active(outputs),
            convolution(outputs, outputs),
            family.plain(outputs),
        )
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, size=1, stride=stride), family.plain(outputs)
            )
        self.after = family.after()

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, inputs, height, width]` to `[batch, outputs, ...]`."""
        return self.after(self.body(x) + self.shortcut(x))
