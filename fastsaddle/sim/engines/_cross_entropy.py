"""Cross entropy of all agents with its gradient written out: one call in place of one an agent."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def is_mean_cross_entropy(loss: Any, outputs: Any, targets: Any) -> bool:
    """Whether `mean_cross_entropy` knows the loss: of one tensor `[agents, batch, classes]` and its labels."""
    are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    return (
        loss is F.cross_entropy
        and are_tensors
        and outputs.dim() == 3
        and targets.shape == outputs.shape[:-1]
        and not has_ignored(targets)
    )


def has_ignored(targets: Tensor) -> bool:
    """Whether some target is no class but says that its sample is left out; not asked on a GPU, which would be waited
    for."""
    return targets.device.type == "cpu" and targets.numel() > 0 and int(targets.min()) < 0


def mean_cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """Each agent's mean cross entropy, `[agents]`, and its gradient with respect to the outputs.

    Args:
        outputs: `[agents, batch, classes]`.
        targets: int64 `[agents, batch]`.

    Raises:
        RuntimeError: a target that is no class.
    """
    logs = F.log_softmax(outputs, -1, dtype=torch.float32)
    right = targets[..., None]
    losses = -logs.gather(-1, right)[..., 0].mean(1)
    gradient = logs.exp_()
    # a number, not a tensor of them: those a GPU sorts by place where it is asked for deterministic algorithms
    gradient.scatter_(-1, right, -1.0, reduce="add")
    return losses, [gradient.div_(targets.shape[1]).to(outputs.dtype)]
