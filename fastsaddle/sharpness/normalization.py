"""Which parameters of a network belong to normalization layers: weight decay and random directions spare them."""

from torch import nn


def normalization_parameters(module: nn.Module) -> set[str]:
    """Names of the parameters that a layer with "Norm" in the name of its class holds itself.

    As in `module.named_parameters()`: a tied parameter has the first of its names.
    """
    found = {
        id(p)
        for layer in module.modules()
        if "Norm" in type(layer).__name__
        for p in layer.parameters(recurse=False)
    }
    return {name for name, p in module.named_parameters() if id(p) in found}
