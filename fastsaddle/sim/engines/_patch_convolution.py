"""Convolutions with weights of each agent's own as batched matrix products over patches, inside torch.vmap.

vmap turns them into one grouped convolution, whose float32 kernels are slow on GPUs. Here the patches of all agents are
laid out at once (Chellapilla, Puri, Simard 2006), and one batched product takes every agent's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastsaddle.kernels.stacked_convolution.layers import Geometry, Pair

# (x, weight, bias, geometry) of stacked agents to their outputs, all `[agents, ...]`
Stacked = Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]

# layers that autocast knows: under torch.vmap it is not asked about convolutions, nor about the bias of linear ones
AUTOCAST = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)


class MappedLayers(TorchFunctionMode):
    """Inside the block convolutions and linear layers under torch.vmap honor autocast.

    Args:
        convolution: takes conv2d of all agents at once where it has one group, zero padding given by numbers, and
            batched input; None leaves all to torch.vmap.
    """

    def __init__(self, convolution: Stacked | None) -> None:
        super().__init__()
        self.convolution = convolution

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function not in AUTOCAST:
            return function(*args, **kwargs)
        args = tuple(map(_as_autocast, args))
        kwargs = {name: _as_autocast(value) for name, value in kwargs.items()}
        found = None
        if self.convolution is not None and function is torch.conv2d:
            found = _mapped(self.convolution, *args, **kwargs)
        return function(*args, **kwargs) if found is None else found


def _as_autocast(value: Any) -> Any:
    if not isinstance(value, Tensor) or not torch.is_autocast_enabled(value.device.type):
        return value
    return value.to(torch.get_autocast_dtype(value.device.type))


def _mapped(
    convolution: Stacked,
    input: Tensor,  # torch's name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor | None:
    if groups != 1 or isinstance(padding, str) or input.dim() != 4:
        return None
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation))
    return _Convolution.apply(input, weight, bias, geometry, convolution)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Convolution(torch.autograd.Function):
    """A plain convolution that torch.vmap maps by a stacked one; only mapped ones are differentiated."""

    @staticmethod
    def forward(  # type: ignore[override]
        x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, convolution: Stacked
    ) -> Tensor:
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        convolution: Stacked,
    ) -> tuple[Tensor, int]:
        agents = info.batch_size
        x, weight = _stacked(x, in_dims[0], agents), _stacked(weight, in_dims[1], agents)
        bias = None if bias is None else _stacked(bias, in_dims[2], agents)
        return convolution(x, weight, bias, geometry), 0


def _stacked(t: Tensor, dim: int | None, agents: int) -> Tensor:
    return t.expand(agents, *t.shape) if dim is None else t.movedim(dim, 0)


class StackedConvolution(torch.autograd.Function):
    """`[agents, batch, channels, height, width]` with `[agents, out, channels, *kernel]` and `[agents, out]` or None.

    Patches are laid out again in the backward pass: they take kernel height x width as much memory as the input.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        patches, size = _patches(x, weight.shape[3:], geometry)
        rows = weight.flatten(2)
        out = rows.bmm(patches) if bias is None else bias[..., None].baddbmm(rows, patches)
        return out.unflatten(2, (x.shape[1], *size)).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        kernel = weight.shape[3:]
        # [agents, out, batch * positions]
        gradient = gradient.transpose(1, 2).flatten(2)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[1]:
            patches, _ = _patches(x, kernel, ctx.geometry)
            for_weight = gradient.bmm(patches.mT).view(weight.shape)
        if ctx.needs_input_grad[0]:
            for_x = _folded(weight.flatten(2).mT.bmm(gradient), x, kernel, ctx.geometry)
        if ctx.needs_input_grad[2]:
            for_bias = gradient.sum(2)
        return for_x, for_weight, for_bias, None


def _patches(x: Tensor, kernel: torch.Size, geometry: Geometry) -> tuple[Tensor, torch.Size]:
    """`[agents, channels * kernel, batch * positions]`, and the positions as (vertical, horizontal)."""
    (down, right), (top, left), (tall, wide) = geometry
    x = F.pad(x, (left, left, top, top)) if top or left else x
    spans = [(size - 1) * spread + 1 for size, spread in zip(kernel, (tall, wide), strict=True)]
    windows = x.unfold(3, spans[0], down).unfold(4, spans[1], right)[..., ::tall, ::wide]
    size = windows.shape[3:5]
    return windows.permute(0, 2, 5, 6, 1, 3, 4).flatten(4).flatten(1, 3), size


def _folded(patches: Tensor, x: Tensor, kernel: torch.Size, geometry: Geometry) -> Tensor:
    """Patches `[agents, channels * kernel, batch * positions]` summed where they overlap: `x`'s shape."""
    samples = patches.unflatten(2, (x.shape[1], -1)).transpose(1, 2).flatten(0, 1)
    stride, padding, dilation = geometry
    size = (x.shape[3], x.shape[4])
    return F.fold(samples, size, tuple(kernel), dilation, padding, stride).view(x.shape)
