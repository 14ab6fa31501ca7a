"""Keeps normalization statistics still in SAM's second pass, which sees the same batch at a perturbed model."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextlib.contextmanager
def second_pass(model: nn.Module) -> Iterator[None]:
    """Leave the running statistics of BatchNorm and InstanceNorm layers alone inside a `with` block.

    SAM evaluates each batch twice, and statistics belong to the first pass (Foret et al. 2020, arXiv:2010.01412,
    official code). In training mode the layers still normalize by the batch; in evaluation mode nothing changes.

    Args:
        model: the module whose layers are to leave their statistics alone.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> model = torch.nn.BatchNorm1d(3)
        >>> with fs.second_pass(model):
        ...     outputs = model(torch.ones(8, 3))
        >>> model.running_mean
        tensor([0., 0., 0.])
    """
    layers = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
    kept = [(m.track_running_stats, m.running_mean, m.running_var) for m in layers]
    for layer in layers:
        # InstanceNorm moves its statistics even where it does not track them
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, (tracked, mean, variance) in zip(layers, kept, strict=True):
            layer.track_running_stats, layer.running_mean, layer.running_var = (
                tracked,
                mean,
                variance,
            )
