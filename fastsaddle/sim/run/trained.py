"""The models that a run has trained, from its latest checkpoint, as modules that know nothing of the run."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack
from fastsaddle.methods.averaging import LocalSGD
from fastsaddle.optimizer.hyperparameters import is_whole
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run import checkpoint, initial_models
from fastsaddle.sim.run.batch_statistics import reestimate
from fastsaddle.sim.run.paths import inside


def latest(run: Path, agents: int) -> tuple[Path, dict[str, Tensor], int]:
    """The latest whole checkpoint of as many agents as the run has: path, tensors and step.

    Raises ValueError where there is none, or where it is of another number of agents.
    """
    error = ValueError(f"{run} has no checkpoint")
    for _, found in checkpoint.find(run):
        path = inside(run, found.name)
        try:
            tensors, step, _ = checkpoint.load(path)
        except ValueError as damage:
            error = damage
            continue
        # before anything is made for so many
        if "x" not in tensors or tensors["x"].shape[:1] != (agents,):
            raise ValueError(f"{path} must hold x of shape ({agents}, ...), a row an agent")
        return path, tensors, step
    raise error


def consensus(
    config: TrainConfig, path: Path, tensors: dict[str, Tensor], dataset: Dataset
) -> nn.Module:
    """The model that stands for all agents in a checkpoint. Raises ValueError where it is not the run's."""
    stack = _stack(config, path, tensors, dataset)
    center = tensors.get("optimizer.center")
    model = stack.consensus(None if center is None else center[0].to(stack.x.device))
    reestimate(model, dataset.train)
    return model


def agent(
    config: TrainConfig, path: Path, tensors: dict[str, Tensor], dataset: Dataset, number: int
) -> nn.Module:
    """One agent's own model in a checkpoint.

    Raises ValueError where the checkpoint is not the run's, and for a number that no agent has.
    """
    if not is_whole(number) or not 0 <= number < config.agents:
        raise ValueError(f"agents are 0 to {config.agents - 1}, got {number!r}")
    return _stack(config, path, tensors, dataset).agent(number)


@torch.no_grad()
def _stack(
    config: TrainConfig, path: Path, tensors: dict[str, Tensor], dataset: Dataset
) -> AgentStack:
    """All agents of a checkpoint."""
    device = dataset.train_inputs.device
    stack = initial_models.build_stack(replace(config, init="same"), dataset, device)
    # an optimizer lays rows out by its parameter groups; this one has the run's groups
    groups = initial_models.decay_groups(stack, config.weight_decay, config.norm_decay)
    LocalSGD(groups, lr=0.0, agents=stack.agents)
    live = {"x": stack.x, **{f"buffer.{name}": b for name, b in stack.buffers.items()}}
    for name, tensor in live.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise ValueError(f"{path} must hold {name} of shape {tuple(tensor.shape)}")
        tensor.copy_(tensors[name])
    return stack
