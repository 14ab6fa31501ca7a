"""Networks of torchvision, which is imported only when one is asked for."""

import importlib
from typing import Any

from torch import nn


def torchvision_models(network: str) -> Any:
    """The module torchvision.models.

    Raises ImportError, in one line with the original reason, where torchvision is missing or made for another torch.
    """
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ImportError(
            f"{network} needs torchvision: pip install 'fastsaddle[sim]' ({reason})",
            name="torchvision",
        ) from error


def without_relu(model: nn.Module) -> nn.Module:
    """`model` itself with every ReLU and ReLU6 replaced by the identity, for norms that activate."""
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if isinstance(child, (nn.ReLU, nn.ReLU6)):
                setattr(layer, name, nn.Identity())
    return model
