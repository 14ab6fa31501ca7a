"""EvoNorm-S0 with a hard gate for stacked agents, with 16 samples in the lanes of a register.

    forward(x, weight, bias, groups, eps, out, means, inverses)
    backward(gradient, x, weight, means, inverses, x_gradient, weight_gradient, bias_gradient)

out = x * relu6(x + 3) / 6 * inverse * weight + bias, with inverse = 1 / sqrt(variance + eps) of a group of channels of
one sample, the variance biased (Liu, Brock, Simonyan, Le 2020, arXiv:2004.02967, with the gate of arXiv:2209.14390).

    x                `[agents, blocks, channels, height, width, BLOCK]`
    weight, bias     `[agents, channels]`; rows may lie apart
    out              shaped as x, overwritten
    means, inverses  `[agents, blocks, groups, BLOCK]`, overwritten; `backward` reads them
    gradient         of out, zeros behind the last sample
    ..._gradient     overwritten; those of weight and bias may be None

Float32, contiguous but for rows that may lie apart. Bits do not depend on agents, threads or the width of registers.
There is no Triton twin: on a GPU the modules themselves are mapped.
"""

from types import ModuleType

import torch
from torch import Tensor

from fastsaddle.kernels._shared.lanes.blocks import BLOCK
from fastsaddle.kernels.lane_evonorm import native_cpu, reference
from fastsaddle.kernels.op import forced_backend


def _backend() -> ModuleType:
    return reference if forced_backend() == "reference" else native_cpu


def _check(groups: int, x: Tensor, **tensors: Tensor | None) -> None:
    agents, blocks, channels = x.shape[:3]
    if x.dim() != 6 or x.shape[5] != BLOCK or groups < 1 or channels % groups:
        raise ValueError(
            f"x must be [agents, blocks, channels, height, width, {BLOCK}], channels a multiple of the {groups} "
            f"groups, got {list(x.shape)}"
        )
    for name, tensor in {"x": x, **tensors}.items():
        if tensor is None:
            continue
        is_row = name.startswith(("weight", "bias"))
        row = [agents, channels] if is_row else list(x.shape)
        shape = [agents, blocks, groups, BLOCK] if name in ("means", "inverses") else row
        is_whole = (tensor[0] if is_row else tensor).is_contiguous()
        kind = list(tensor.shape), tensor.dtype, tensor.device.type, is_whole
        if kind != (shape, torch.float32, "cpu", True):
            raise ValueError(
                f"{name} must be {shape} float32 on a CPU, contiguous, got {list(tensor.shape)} {tensor.dtype} on "
                f"{tensor.device}, strides {tensor.stride()}"
            )


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    out: Tensor,
    means: Tensor,
    inverses: Tensor,
) -> None:
    """See above.

    Raises:
        ValueError: shapes, dtypes or strides that are not those above.
        ImportError: the native library cannot be opened.
    """
    _check(groups, x, weight=weight, bias=bias, out=out, means=means, inverses=inverses)
    _backend().forward(x, weight, bias, groups, eps, out, means, inverses)


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    means: Tensor,
    inverses: Tensor,
    x_gradient: Tensor,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
) -> None:
    """See above.

    Raises:
        ValueError: shapes, dtypes or strides that are not those above.
        ImportError: the native library cannot be opened.
    """
    rows = {"weight_gradient": weight_gradient, "bias_gradient": bias_gradient}
    whole = {"gradient": gradient, "x_gradient": x_gradient, "means": means, "inverses": inverses}
    _check(means.shape[2], x, weight=weight, **rows, **whole)
    _backend().backward(
        gradient, x, weight, means, inverses, x_gradient, weight_gradient, bias_gradient
    )
