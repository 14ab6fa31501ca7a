"""What torchrun starts in tests: a script, of which every rank leaves its models and last gradients in a file."""

import os
import runpy
import sys
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

gradients: list[torch.Tensor] = []


def keep(optimizer: Any, *arguments: Any) -> None:
    """Gradients of the last step, which scripts may zero."""
    groups = optimizer.param_groups
    gradients[:] = [p.grad.clone() for group in groups for p in group["params"]]


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


register_optimizer_step_post_hook(keep)
script, folder = sys.argv[1:]
names = runpy.run_path(script, run_name="__main__")
left = {"model": values(names["model"]), "averaged": values(names["averaged"])}
torch.save({**left, "gradients": gradients}, f"{folder}/{os.environ['RANK']}.pt")
