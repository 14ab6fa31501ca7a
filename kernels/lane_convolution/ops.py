"""Convolutions of stacked agents, each with weights of its own, with 16 samples in the lanes of a register.

    forward(layer, x, weight, bias, out, codes)
    backward(layer, gradient, codes, x, weight, x_gradient, weight_gradient, bias_gradient)

One agent's samples lie in blocks `[channels, height, width, BLOCK]` (`to_blocks`), zeros behind the last. A sum over
taps is then a chain of multiply-adds of whole registers, whatever kernel, stride or padding: nothing is shuffled, and
no patches are laid out. ReLU and max-pooling over windows of 2 x 2 are done on the way out.

    x                `[agents, blocks, channels, height, width, BLOCK]`; agents may share their samples (stride 0)
    weight, bias     `[agents, outputs, channels, *kernel]`, `[agents, outputs]` or None; rows may lie apart
    out              `[agents, blocks, outputs, *layer.result, BLOCK]`, overwritten
    codes            uint8, shaped as `out`, overwritten: which position of its window a number comes from (top left,
                     top right, below them), or NOWHERE where ReLU gave 0; None where it is not needed
    gradient, codes  what `backward` gets: of `out`, zeros behind the last sample; None where there is neither ReLU nor
                     pooling
    ..._gradient     overwritten; None where it is not wanted. Parts of the blocks are added up by themselves: bits
                     depend on the number of blocks, and not on agents or threads

Float32, contiguous but for rows that may lie apart. AVX2 and AVX-512 give the same bits, as sums are fused
multiply-adds in the same order; without them products round once more. The reference is PyTorch's convolution. There is
no Triton twin: on a GPU the convolutions of `stacked_convolution` do this. Source: the layout is that of Chetlur et al.
2014, arXiv:1410.0759, "CHWN", cut into blocks; tiles are a reconstruction.
"""

from types import ModuleType

import torch
from torch import Tensor

from fastsaddle.kernels import native
from fastsaddle.kernels._shared.lanes.blocks import BLOCK
from fastsaddle.kernels.lane_convolution import native_cpu, reference
from fastsaddle.kernels.lane_convolution.layer import Layer
from fastsaddle.kernels.op import forced_backend

# with registers of fewer floats (without AVX2 and FMA) they have not been measured
FAST_WIDTH = 8


def unavailable(device: torch.device) -> str | None:
    """Why the native functions cannot run on `device` in this process; None where they can."""
    if device.type != "cpu":
        return f"the native library works on CPU tensors, the device is {device}"
    try:
        native.library()
    except ImportError as error:
        return str(error)
    return None


def are_fast() -> bool:
    """Whether this processor has the registers that the native functions were measured with; False without them."""
    try:
        return int(native.library().fs_lane_width()) >= FAST_WIDTH
    except ImportError:
        return False


def _backend() -> ModuleType:
    return reference if forced_backend() == "reference" else native_cpu


def _check(layer: Layer, x: Tensor, weight: Tensor, results: dict[str, Tensor | None]) -> None:
    """Raise ValueError for shapes that are not the layer's."""
    agents, blocks = x.shape[:2]
    layer.check()
    whole = (agents, blocks, layer.outputs, *layer.result, BLOCK)
    expected = {
        "x": (agents, blocks, layer.channels, *layer.size, BLOCK),
        "weight": (agents, layer.outputs, layer.channels, *layer.kernel),
        **dict.fromkeys(("out", "gradient", "codes"), whole),
        "bias": (agents, layer.outputs),
    }
    expected |= {f"{name}_gradient": expected[name] for name in ("x", "weight", "bias")}
    for name, tensor in {"x": x, "weight": weight, **results}.items():
        if tensor is None:
            continue
        dtype = torch.uint8 if name == "codes" else torch.float32
        if tensor.shape != expected[name] or tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ValueError(
                f"{name} must be {list(expected[name])} {dtype} on a CPU, got {list(tensor.shape)} {tensor.dtype} on "
                f"{tensor.device}"
            )
        is_whole = name in ("out", "gradient", "codes", "x_gradient")
        if not (tensor if is_whole else tensor[0]).is_contiguous():
            raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")


def forward(
    layer: Layer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    codes: Tensor | None,
) -> None:
    """See above.

    Raises:
        ValueError: shapes, dtypes or strides that are not the layer's.
        ImportError: the native library cannot be opened.
    """
    _check(layer, x, weight, {"bias": bias, "out": out, "codes": codes})
    _backend().forward(layer, x, weight, bias, out, codes)


def backward(
    layer: Layer,
    gradient: Tensor,
    codes: Tensor | None,
    x: Tensor,
    weight: Tensor,
    x_gradient: Tensor | None,
    weight_gradient: Tensor | None,
    bias_gradient: Tensor | None,
) -> None:
    """See above.

    Raises:
        ValueError: shapes, dtypes or strides that are not the layer's, or no codes where it has ReLU or pooling.
        ImportError: the native library cannot be opened.
    """
    results = {
        "gradient": gradient,
        "codes": codes,
        "x_gradient": x_gradient,
        "weight_gradient": weight_gradient,
        "bias_gradient": bias_gradient,
    }
    _check(layer, x, weight, results)
    if codes is None and (layer.relu or layer.pool):
        raise ValueError("the gradient of ReLU and pooling needs codes, got None")
    _backend().backward(
        *(layer, gradient, codes, x, weight, x_gradient, weight_gradient, bias_gradient)
    )
