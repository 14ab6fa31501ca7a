"""Convolutions on blocks of samples in plain PyTorch: the specification."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsaddle.kernels._shared.lanes.blocks import to_blocks, to_samples
from fastsaddle.kernels.lane_convolution.layer import NOWHERE, Layer, Pair, layer_of


def _convolved(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[agents, batch, outputs, *positions]` of samples."""
    how = layer.stride, layer.padding, layer.dilation
    biases = [None] * len(x) if bias is None else bias
    return torch.stack([F.conv2d(*one, *how) for one in zip(x, weight, biases, strict=True)])


def _windows(layer: Layer, positions: Tensor) -> Tensor:
    """`[..., height, width, 1 or 4]`: the positions that each number of the result comes from."""
    if not layer.pool:
        return positions[..., None]
    return positions.unfold(-2, 2, 2).unfold(-2, 2, 2).flatten(-2)


def forward_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    codes: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    pool: bool,
) -> None:
    layer = layer_of(x, weight, stride, padding, dilation, relu, pool)
    batch = x.shape[1] * x.shape[-1]
    windows = _windows(layer, _convolved(layer, to_samples(x, batch), weight, bias))
    best, which = windows.max(-1)
    if layer.relu:
        which = torch.where(best <= 0, NOWHERE, which)
        best = best.relu()
    out.copy_(to_blocks(best))
    if codes is not None:
        codes.copy_(to_blocks(which))


def backward_reference(
    gradient: Tensor,
    codes: Tensor | None,
    x: Tensor,
    weight: Tensor,
    x_gradient: Tensor | None,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool,
    pool: bool,
) -> None:
    layer = layer_of(x, weight, stride, padding, dilation, relu, pool)
    batch = x.shape[1] * x.shape[-1]
    coded = torch.zeros_like(gradient, dtype=torch.uint8) if codes is None else codes
    values, which = to_samples(gradient, batch), to_samples(coded, batch).long()
    values = torch.where(which == NOWHERE, 0, values)
    positions = values.new_zeros(*values.shape[:3], *layer.positions)
    places = torch.arange(positions[0, 0, 0].numel(), device=x.device).view(layer.positions)
    windows = _windows(layer, places).expand(*values.shape, -1)
    chosen = windows.gather(-1, (which % NOWHERE)[..., None])[..., 0]
    positions.flatten(3).scatter_(3, chosen.flatten(3), values.flatten(3))
    samples = to_samples(x, batch).detach().requires_grad_()
    its_weight = weight.detach().requires_grad_()
    with torch.enable_grad():
        found = _convolved(layer, samples, its_weight, None)
        for_x, for_weight = torch.autograd.grad(found, (samples, its_weight), positions)
    if x_gradient is not None:
        x_gradient.copy_(to_blocks(for_x))
    if weight_gradient is not None:
        weight_gradient.copy_(for_weight)
    if bias_gradient is not None:
        bias_gradient.copy_(values.sum((1, 3, 4)))
