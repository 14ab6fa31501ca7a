"""In which arithmetic gradients are taken."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError for an unknown precision, or for tf32 on a device without it."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision tf32 is a mode of GPUs' matrix products, the device is {device}: use float32 or bfloat16"
        )


def casting(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass: autocast for bfloat16, nothing for the others.

    Parameters, gradients and losses stay float32; a weight is used once a pass, so that its cast is not kept.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def in_float32(found: Any) -> Any:
    """A tensor or a tree of them, those in bfloat16 cast: what a loss gets."""
    return tree_map_only(Tensor, lambda t: t.float() if t.dtype == torch.bfloat16 else t, found)


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        _allow(tf32, tf32)
        yield
    finally:
        _allow(*map(bool, flags))


def _allow(matrices: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = matrices
    torch.backends.cudnn.allow_tf32 = convolutions


def products(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of whole passes: on a GPU matrix products and convolutions in TF32 or, as torch's defaults would not
    do for convolutions, in full float32. The flags are torch's global ones, restored after."""
    return _products(precision == "tf32") if device.type == "cuda" else nullcontext()
