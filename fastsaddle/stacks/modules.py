"""What a module must be to be stacked, and how one is drawn anew."""

import copy

import torch
from torch import nn

from fastsaddle.optimizer.flat_parameters import check_parameters


def check_module(module: nn.Module) -> None:
    """Raise ValueError unless a module has parameters that can be stacked: float32, each in memory of its own.

    One parameter object under several names is one parameter. A buffer that shares a parameter's memory would no longer
    follow it either.
    """
    named = dict(module.named_parameters())
    if not named:
        raise ValueError("at least one parameter is needed, got none")
    for name, p in named.items():
        if p.dtype != torch.float32:
            raise ValueError(
                f"a stack's parameters must be float32, got {p.dtype} for {name}: "
                "module.float() makes them so, and torch.autocast computes in bfloat16"
            )
    check_parameters([list(named.values())], 1, stacked=False)
    spans = [(name, p.data_ptr(), p.data_ptr() + p.nbytes) for name, p in named.items()]
    for name, b in module.named_buffers():
        start, end = b.data_ptr(), b.data_ptr() + b.nbytes
        for other, first, last in spans:
            if max(start, first) < min(end, last):
                raise ValueError(
                    f"buffers must not share memory with parameters, {name} does with {other}"
                )


def drawn_anew(module: nn.Module, seed: int, agent: int) -> nn.Module:
    """A copy whose layers with `reset_parameters` drew new values; the global generator is left as it was."""
    drawn = copy.deepcopy(module)
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + agent)
        for layer in drawn.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
    return drawn
