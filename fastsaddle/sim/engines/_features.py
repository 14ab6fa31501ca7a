"""What a network knows before its last layer: the input of its last Linear one, beside its outputs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def last_linear(module: nn.Module) -> str:
    """The name of the Linear layer that was registered last: the classifier of all networks of the simulator.

    Raises ValueError where there is none.
    """
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise ValueError(
            f"features need a network with a Linear layer, {type(module).__name__} has none"
        )
    return names[-1]


@contextmanager
def returning_features(module: nn.Module, layer: str | None) -> Iterator[None]:
    """Inside the block `module` returns (its outputs, what its submodule `layer` was given); None changes nothing.

    Both come out of the forward pass itself, so that it may be mapped (`torch.vmap`) or called with other parameters
    (`torch.func.functional_call`). A layer that is called several times counts as it was called last.
    """
    if layer is None:
        yield
        return
    given: dict[str, torch.Tensor] = {}

    def keep(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        given[layer] = arguments[0]

    def add(_: nn.Module, arguments: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> tuple:
        return outputs, given.pop(layer)

    hooks = (
        module.get_submodule(layer).register_forward_pre_hook(keep),
        module.register_forward_hook(add),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
