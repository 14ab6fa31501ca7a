"""What every engine trains: the same network, data, loss and optimizer options."""

import os
import sys

import torch
from _turns import TURNS
from torch import Tensor, nn

BATCH, INPUTS, HIDDEN, CLASSES = 32, 784, 50, 10
LR, MOMENTUM = 0.01, 0.9


def agents() -> int:
    """The number of agents, from the command line; one thread, and one core unless told otherwise, from here on."""
    if sys.argv[2] == "one-core" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return int(sys.argv[1])


def network() -> nn.Module:
    """784-50-10 with ReLU, 39,760 parameters."""
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def data(agents: int) -> tuple[Tensor, Tensor]:
    """One batch an agent: inputs `[agents, 32, 784]` and labels `[agents, 32]`, the same in every run."""
    source = torch.Generator().manual_seed(1)
    inputs = torch.randn(agents, BATCH, INPUTS, generator=source)
    return inputs, torch.randint(0, CLASSES, (agents, BATCH), generator=source)


class CountedLoss(nn.CrossEntropyLoss):
    """Cross entropy that counts its calls: one local step each."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        TURNS.steps += 1
        return super().forward(input, target)
