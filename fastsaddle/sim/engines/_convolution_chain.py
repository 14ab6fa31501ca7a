"""Chains of convolutions that end in linear layers, for all agents at once, with samples in the lanes of registers.

Up to the Flatten activations are blocks of samples (fastsaddle.kernels.lane_convolution): convolutions with a ReLU and
a max-pooling behind them are one pass, elementwise layers are torch's, and so are other poolings, which take a block
for an image in channels-last layout. What follows is a `LayerChain`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack
from fastsaddle.kernels._shared.lanes.blocks import to_blocks, to_samples
from fastsaddle.sim.engines._lane_path import is_fast, obstacle, path_of
from fastsaddle.sim.engines._lane_way import Way
from fastsaddle.sim.engines._layer_chain import LayerChain


class ConvolutionChain:
    """The template of a stack, stage by stage.

    Args:
        stack: agents of a module of which `unknown_layer` says None, on a CPU.
    """

    def __init__(self, stack: AgentStack) -> None:
        self.stack = stack
        path = path_of(stack.template)
        cut = next(i for i, (_, layer) in enumerate(path) if type(layer) is nn.Flatten)
        self._front = path[:cut]
        self._end = LayerChain(
            stack, {n: layer for n, layer in path[cut:] if isinstance(layer, nn.Module)}
        )

    @torch.no_grad()
    def gradients(
        self,
        part: slice,
        inputs: Tensor,
        loss: Callable[[Any], tuple[Any, list[Tensor | None]]],
        features: str | None = None,
    ) -> tuple[Any, None]:
        """As of a `LayerChain`."""
        rows = {name: model[part] for name, model in self.stack.named_models()}
        way = Way(rows, inputs.shape[1], features, keeps=True)
        h = way.forward(self._front, to_blocks(inputs, repeats=True))
        further = None
        # the end of a module has one
        gradient: Any
        if way.found is None:
            returned, gradient = self._end.gradients(
                part, to_samples(h, inputs.shape[1]), loss, features
            )
        else:
            told: list[Tensor | None] = []

            def loss_of_end(outputs: Tensor) -> tuple[Any, list[Tensor | None]]:
                returned, gradients = loss((outputs, way.found))
                told.append(gradients[1])
                return returned, gradients[:1]

            returned, gradient = self._end.gradients(
                part, to_samples(h, inputs.shape[1]), loss_of_end
            )
            further = told[0]
        views = {name: g[part] for name, g in self.stack.named_gradients()}
        for name, p in self.stack.named_parameters():
            if not p.requires_grad:
                views.pop(name).zero_()
        way.backward(to_blocks(gradient), views, None if further is None else to_blocks(further))
        return returned, None

    @torch.no_grad()
    def outputs(
        self, rows: Mapping[str, Tensor], inputs: Tensor, features: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As of a `LayerChain`."""
        way = Way(rows, inputs.shape[1], features, keeps=False)
        h = way.forward(self._front, to_blocks(inputs, repeats=True))
        outputs, found = self._end.outputs(rows, to_samples(h, inputs.shape[1]), features)
        return outputs, found if way.found is None else way.found


def is_faster_in_lanes(model: nn.Module, images: Tensor) -> bool:
    """Whether a plain model has a chain that computes images `[samples, ...]` like these in less time."""
    is_one = images.dim() == 4 and images.dtype == torch.float32
    return is_one and obstacle(model, images.device, "float32") is None and is_fast(model)


def in_lanes(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A plain model's forward pass without gradients by its chain; None where it has none that is faster.

    Args:
        model: in its mode; its parameters as they are now.
        images: `[samples, ...]`, such as it will get.
    """
    if not is_faster_in_lanes(model, images):
        return None
    stack = AgentStack(model, 1)
    chain, rows = ConvolutionChain(stack), dict(stack.named_parameters())
    return lambda batch: chain.outputs(rows, batch[None])[0][0]
