"""Networks that are a path of layers which samples in lanes can take: what it is, and which steps are one."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from fastsaddle.kernels._shared.lanes.blocks import BLOCK
from fastsaddle.kernels.lane_convolution import are_fast, lane_convolution
from fastsaddle.sim.engines import _layer_chain
from fastsaddle.sim.engines._layer_chain import ELEMENTWISE, is_sequence, within
from fastsaddle.sim.networks._norms import EvoNormHardSwish
from fastsaddle.sim.networks.resnet20 import Block

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
RULE = (
    "it must be a Sequential of Conv2d (one group, zero padding), EvoNormHardSwish, ResNet-20's blocks, pooling and "
    "elementwise layers, Flatten and Linear"
)


class Residual(NamedTuple):
    """A body beside a shortcut, whose results are added."""

    body: "Path"
    shortcut: "Path"


# layers by name, in the order in which they are passed through
Path = list[tuple[str, nn.Module | Residual]]


def path_of(module: nn.Module, name: str = "") -> Path:
    """A module as a path; what it does not know is one layer."""
    if is_sequence(module):
        return [
            one for n, child in module.named_children() for one in path_of(child, within(name, n))
        ]
    if isinstance(module, Block):
        body, shortcut, after = (
            path_of(getattr(module, part), within(name, part))
            for part in ("body", "shortcut", "after")
        )
        return [(name, Residual(body, shortcut)), *after]
    return [(name, module)]


def _flat(path: Path) -> Iterator[nn.Module]:
    for _, layer in path:
        if isinstance(layer, Residual):
            yield from (*_flat(layer.body), *_flat(layer.shortcut))
        else:
            yield layer


def unknown_layer(module: nn.Module) -> str | None:
    """What makes the module no such chain, in one line; None where it is one."""
    unknown = _layer_chain.unknown_layer(module, RULE, _is_known)
    if unknown is not None:
        return unknown
    kinds = [type(layer) for layer in _flat(path_of(module))]
    before = kinds.index(nn.Flatten) if nn.Flatten in kinds else len(kinds)
    is_ordered = nn.Conv2d in kinds[:before] and nn.Linear not in kinds[:before]
    is_ended = all(kind in (nn.Linear, nn.Flatten, *ELEMENTWISE) for kind in kinds[before:])
    if nn.Conv2d not in kinds:
        return f"{RULE}, it has no Conv2d"
    return None if is_ordered and is_ended else f"{RULE}, in this order"


def obstacle(module: nn.Module, device: torch.device, precision: str) -> str | None:
    """Why the module cannot be computed as such a chain, in one line; None where it can."""
    if precision != "float32":
        return f"it takes float32 only, got {precision}"
    return unknown_layer(module) or lane_convolution.unavailable(device).get("native")


def is_fast(module: nn.Module, batch: int | None = None) -> bool:
    """Whether such a chain takes less time in lanes than layer by layer through torch, by measurements.

    One thread, processor time, AVX-512, beside agents one by one: LeNet-5 took 0.22 to 0.34 of the time with batches of
    32, 0.4 with batches of 8 or of 4; with batches of 32 two convolutions of 32 and 64 channels took 0.5, cnn5 0.56,
    ResNet-20 0.58, vgg11 0.66. Wide convolutions are faster in torch where nothing else takes time: those of 64 to 256
    channels with ReLU took 1.02 to 1.07 of it, up to 512 channels 1.12 to 1.41. Lanes without a sample are time lost:
    with batches of 8 cnn5 and ResNet-20 took 1.0 to 1.11.

    Args:
        module: of which `obstacle` says None.
        batch: samples of an agent; None: enough to fill the lanes.
    """
    if not are_fast():
        return False
    layers = [*module.modules()]
    widest = max(layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d))
    if widest <= BLOCK:
        return True
    is_normed = any(isinstance(layer, EvoNormHardSwish) for layer in layers)
    is_full = batch is None or batch / (-(-batch // BLOCK) * BLOCK) >= 0.75
    return is_full and (is_normed or widest <= 64)


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        is_plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return is_plain and layer.groups == 1
    if type(layer) in POOLINGS:
        return not getattr(layer, "return_indices", False)
    return type(layer) in (EvoNormHardSwish, Block) or _layer_chain.is_known(layer)


class Stage(NamedTuple):
    """A layer; of a convolution also what follows it at once."""

    name: str
    layer: nn.Module | Residual
    relu: bool = False
    pool: bool = False


def stages_of(path: Path, features: str | None) -> list[Stage]:
    """What is computed at once: a convolution takes in what follows it, but not a layer whose input is wanted."""
    stages: list[Stage] = []
    for name, layer in path:
        last = stages[-1] if stages else Stage("", nn.Identity())
        is_free = type(last.layer) is nn.Conv2d and not last.pool and name != features
        if is_free and type(layer) is nn.ReLU and not last.relu:
            stages[-1] = last._replace(relu=True)
        elif is_free and isinstance(layer, nn.MaxPool2d) and _halves(layer):
            stages[-1] = last._replace(pool=True)
        else:
            stages.append(Stage(name, layer))
    return stages


def _halves(layer: nn.MaxPool2d) -> bool:
    """Whether it is max-pooling over windows of 2 x 2 that do not overlap."""
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    pairs = tuple((s, s) if isinstance(s, int) else tuple(s) for s in sizes)
    return pairs == ((2, 2), (2, 2), (0, 0), (1, 1)) and not layer.ceil_mode
