"""Running statistics of BatchNorm for averaged models, whose activations are not the average of their parts'."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from fastsaddle.sim.data.samples import Samples

SEED = 0


def has_statistics(model: nn.Module) -> bool:
    """Whether a BatchNorm layer of `model` normalizes by running statistics in evaluation."""
    return any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in model.modules())


def reestimate(
    model: nn.Module, inputs: Tensor | Samples, batch_size: int = 250, samples: int = 10_000
) -> None:
    """Replace the running statistics of `model` by those of its own activations on the training inputs.

    An agent's statistics belong to its own parameters. Averaged parameters give other activations, which the average
    of the agents' statistics does not fit (Izmailov et al. 2018, arXiv:1803.05407, section 3.2, for averages over
    time). As by `torch.optim.swa_utils.update_bn`: the mean over batches of each batch's mean and unbiased variance.

    Nothing is done to a model without running statistics. Parameters, training mode and torch's global random state
    stay as they were; equal arguments give equal bits.

    Args:
        model: on the device of `inputs`.
        inputs: training inputs `[n, ...]`; used are the first `samples` of a fixed permutation of them, or all.
        batch_size: largest batch; all are of one size or differ by 1.
        samples: how many inputs to use.

    Raises:
        ValueError: no inputs, or `batch_size` or `samples` below 1.
    """
    for name, value in (("batch_size", batch_size), ("samples", samples), ("inputs", len(inputs))):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not has_statistics(model):
        return
    order = np.random.default_rng(SEED).permutation(len(inputs))[:samples]
    # equal sizes, because every batch counts the same
    parts = np.array_split(order, -(-len(order) // batch_size))
    batches = (inputs[torch.from_numpy(part).to(inputs.device)] for part in parts)
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(SEED)
        update_bn(batches, model)
