"""Embeddings whose padding row gets no gradient, also under torch.vmap, where torch's own gives it one."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class PaddingRows(TorchFunctionMode):
    """Inside the context `torch.nn.functional.embedding` passes no gradient on to its padding row.

    Attributes:
        seen: whether there was a padding row.
    """

    seen = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        padding = kwargs.get("padding_idx") if func is F.embedding else None
        if padding is None:
            return func(*args, **kwargs)
        inputs, weight = args
        rows = weight.shape[0]
        if not -rows <= padding < rows:
            return func(*args, **kwargs)
        self.seen = True
        outputs = func(*args, **kwargs | {"padding_idx": None})
        is_padding = (inputs == padding % rows)[..., None]
        return torch.where(is_padding, outputs.detach(), outputs)


def padding_rows(module: nn.Module) -> AbstractContextManager[Any]:
    """`PaddingRows` where a layer of the module is an embedding with padding."""
    embeddings = (layer for layer in module.modules() if isinstance(layer, nn.Embedding))
    is_padded = any(layer.padding_idx is not None for layer in embeddings)
    return PaddingRows() if is_padded else nullcontext()
