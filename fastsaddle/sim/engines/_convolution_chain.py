"""Chains of convolutions that end in linear layers, for all agents at once, with samples in the lanes of registers.

From the first convolution to the Flatten activations are blocks of samples (fastsaddle.kernels.lane_convolution):
convolutions with a ReLU and a max-pooling behind them are one pass, elementwise layers are torch's, and so are other
poolings, which take a block for an image in channels-last layout. What follows is a `LayerChain`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack
from fastsaddle.kernels.lane_convolution import ops
from fastsaddle.kernels.lane_convolution.layer import BLOCK, Layer, to_blocks, to_samples
from fastsaddle.sim.engines import _layer_chain
from fastsaddle.sim.engines._layer_chain import LayerChain, within

POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
RULE = "it must be a Sequential of Conv2d (one group, zero padding), pooling and elementwise layers, Flatten and Linear"


def unknown_layer(module: nn.Module) -> str | None:
    """What makes the module no such chain, in one line; None where it is one."""
    unknown = _layer_chain.unknown_layer(module, RULE, _is_known)
    if unknown is not None:
        return unknown
    kinds = [type(layer) for layer in _layers(module).values()]
    before = kinds.index(nn.Flatten) if nn.Flatten in kinds else len(kinds)
    is_ordered = nn.Conv2d in kinds[:before] and nn.Linear not in kinds[:before]
    after = {*kinds[before:]}
    if not is_ordered or after & {nn.Conv2d, *POOLINGS}:
        return f"{RULE}, in this order"
    return None


def obstacle(module: nn.Module, device: torch.device, precision: str) -> str | None:
    """Why the module cannot be computed as such a chain, in one line; None where it can."""
    if precision != "float32":
        return f"it takes float32 only, got {precision}"
    return ops.unavailable(device) or unknown_layer(module)


def in_lanes(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A plain model's forward pass without gradients by its chain; None where it is none.

    Args:
        model: in its mode; its parameters as they are now.
        images: `[samples, ...]`, such as it will get.
    """
    is_one = images.dim() == 4 and images.dtype == torch.float32
    if not is_one or obstacle(model, images.device, "float32") is not None:
        return None
    stack = AgentStack(model, 1)
    chain, rows = ConvolutionChain(stack), dict(stack.named_parameters())
    return lambda batch: chain.outputs(rows, batch[None])[0][0]


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        is_plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return is_plain and layer.groups == 1
    if type(layer) in POOLINGS:
        return not getattr(layer, "return_indices", False)
    return _layer_chain.is_known(layer)


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    return {n: layer for n, layer in module.named_modules() if type(layer) is not nn.Sequential}


class Stage(NamedTuple):
    """A layer; of a convolution also what follows it at once."""

    name: str
    layer: nn.Module
    relu: bool = False
    pool: bool = False


class Passed(NamedTuple):
    """What a stage got and gave, in blocks; of a convolution also how it is taken back."""

    stage: Stage
    got: Tensor
    gave: Tensor
    sizes: Layer | None = None
    codes: Tensor | None = None


class ConvolutionChain:
    """The template of a stack, stage by stage.

    Args:
        stack: agents of a module of which `unknown_layer` says None, on a CPU.
    """

    def __init__(self, stack: AgentStack) -> None:
        self.stack = stack
        layers = [*_layers(stack.template).items()]
        cut = next(i for i, (_, layer) in enumerate(layers) if type(layer) is nn.Flatten)
        self._front, self._end = layers[:cut], LayerChain(stack, dict(layers[cut:]))

    @torch.no_grad()
    def gradients(
        self,
        part: slice,
        inputs: Tensor,
        loss: Callable[[Any], tuple[Any, list[Tensor | None]]],
        features: str | None = None,
    ) -> tuple[Any, None]:
        """As of a `LayerChain`."""
        rows = {name: p.detach()[part] for name, p in self.stack.named_parameters()}
        passed, h, found = self._forward(rows, inputs, features, codes=True)
        if found is None:
            returned, gradient = self._end.gradients(part, h, loss, features)
            further = None
        else:
            told: list[Tensor | None] = []

            def loss_of_end(outputs: Tensor) -> tuple[Any, list[Tensor | None]]:
                returned, gradients = loss((outputs, found))
                told.append(gradients[1])
                return returned, gradients[:1]

            returned, gradient = self._end.gradients(part, h, loss_of_end)
            further = told[0]
        self._backward(part, passed, rows, gradient, features, further)
        return returned, None

    @torch.no_grad()
    def outputs(
        self, rows: Mapping[str, Tensor], inputs: Tensor, features: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As of a `LayerChain`."""
        _, h, found = self._forward(rows, inputs, features, codes=False)
        outputs, its = self._end.outputs(rows, h, features)
        return outputs, its if found is None else found

    def _stages(self, features: str | None) -> list[Stage]:
        """What is computed at once: a convolution takes in what follows it, but not a layer whose input is wanted."""
        stages: list[Stage] = []
        for name, layer in self._front:
            last = stages[-1] if stages else None
            is_free = (
                last is not None
                and type(last.layer) is nn.Conv2d
                and not last.pool
                and name != features
            )
            if last is not None and is_free and type(layer) is nn.ReLU and not last.relu:
                stages[-1] = last._replace(relu=True)
            elif last is not None and is_free and _halves(layer):
                stages[-1] = last._replace(pool=True)
            else:
                stages.append(Stage(name, layer))
        return stages

    def _forward(
        self, rows: Mapping[str, Tensor], inputs: Tensor, features: str | None, codes: bool
    ) -> tuple[list[Passed], Tensor, Tensor | None]:
        """What went through each stage, what goes into the end, and the features if they are not the end's."""
        h, passed, found = to_blocks(inputs), [], None
        for stage in self._stages(features):
            if stage.name == features:
                found = to_samples(h, inputs.shape[1])
            if type(stage.layer) is nn.Conv2d:
                passed.append(_convolved(stage, rows, h, codes))
            else:
                got = h.detach().requires_grad_()
                with torch.set_grad_enabled(codes):
                    # some layers write into what they get, which features may still need
                    given = got.clone() if getattr(stage.layer, "inplace", False) else got
                    passed.append(Passed(stage, got, _applied(stage.layer, given)))
            h = passed[-1].gave.detach()
        return passed, to_samples(h, inputs.shape[1]), found

    def _backward(
        self,
        part: slice,
        passed: list[Passed],
        rows: Mapping[str, Tensor],
        gradient: Tensor,
        features: str | None,
        further: Tensor | None,
    ) -> None:
        wanted = {name for name, p in self.stack.named_parameters() if p.requires_grad}
        views = {name: g[part] for name, g in self.stack.named_gradients()}
        first = next(i for i, one in enumerate(passed) if one.sizes is not None)
        gradient = to_blocks(gradient)
        for number in range(len(passed) - 1, first - 1, -1):
            stage, got, gave, sizes, codes = passed[number]
            if sizes is None:
                (gradient,) = torch.autograd.grad(gave, got, gradient)
            else:
                mine = {}
                for kind in ("weight", "bias"):
                    name = within(stage.name, kind)
                    if name in wanted:
                        mine[kind] = views[name]
                    elif name in views:
                        views[name].zero_()
                for_got = torch.empty_like(got) if number > first else None
                ops.backward(
                    *(sizes, gradient.contiguous(), codes, got, rows[within(stage.name, "weight")]),
                    *(for_got, mine.get("weight"), mine.get("bias")),
                )
                gradient = for_got
            if stage.name == features and further is not None and gradient is not None:
                gradient = gradient + to_blocks(further)


def _halves(layer: nn.Module) -> bool:
    """Whether it is max-pooling over windows of 2 x 2 that do not overlap."""
    if type(layer) is not nn.MaxPool2d:
        return False
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    pairs = tuple((s, s) if isinstance(s, int) else tuple(s) for s in sizes)
    return pairs == ((2, 2), (2, 2), (0, 0), (1, 1)) and not layer.ceil_mode


def _convolved(stage: Stage, rows: Mapping[str, Tensor], x: Tensor, codes: bool) -> Passed:
    layer: Any = stage.layer
    sizes = Layer(
        *(layer.in_channels, (x.shape[3], x.shape[4]), layer.out_channels, layer.kernel_size),
        *(layer.stride, layer.padding, layer.dilation, stage.relu, stage.pool),
    )
    sizes.check()
    weight, bias = rows[within(stage.name, "weight")], rows.get(within(stage.name, "bias"))
    out = x.new_empty(*x.shape[:2], sizes.outputs, *sizes.result, BLOCK)
    has_codes = codes and (stage.relu or stage.pool)
    which = torch.empty_like(out, dtype=torch.uint8) if has_codes else None
    ops.forward(sizes, x if x[0].is_contiguous() else x.contiguous(), weight, bias, out, which)
    return Passed(stage, x, out, sizes, which)


def _applied(layer: nn.Module, x: Tensor) -> Tensor:
    """A pooling or elementwise layer on blocks."""
    if type(layer) not in POOLINGS:
        return layer(x)
    # samples are channels here: the same for all of them
    images = x.flatten(0, 2).permute(0, 3, 1, 2)
    return layer(images).permute(0, 2, 3, 1).unflatten(0, x.shape[:3]).contiguous()
