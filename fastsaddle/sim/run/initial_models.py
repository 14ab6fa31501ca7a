"""The agents' models before the first step, all from one seed."""

from typing import Any

import torch
from torch import nn

from fastsaddle.agents import AgentStack
from fastsaddle.ranks.placement import Placement
from fastsaddle.sharpness.normalization import normalization_parameters
from fastsaddle.sim import choices
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.dataset import Dataset


def build(
    text: str, shape: tuple[int, ...], classes: int, seed: int, vocabulary: int | None = None
) -> nn.Module:
    """The network that `--model` names, for samples of `shape`; equal seeds give equal weights.

    torch's global random state is left as it was. Raises ValueError for an unknown name or unfit data.
    """
    network = choices.find(text, "networks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network(shape=shape, classes=classes, vocabulary=vocabulary)
    if not isinstance(module, nn.Module):
        raise ValueError(f"--model {text} must give an nn.Module, got {type(module)}")
    return module


def build_stack(
    config: TrainConfig,
    dataset: Dataset,
    device: torch.device,
    placement: Placement | None = None,
) -> AgentStack:
    """The agents' models: one network copied, or with `--init independent` each drawn from its own seed."""

    def drawn(seed: int) -> nn.Module:
        classes = len(dataset.classes)
        return build(config.model, dataset.shape, classes, seed, dataset.vocabulary)

    stack = AgentStack(drawn(config.seed), placement or config.agents, device=device)
    if config.init == "independent":
        for row in range(stack.agents):
            # agent 0 has the network itself
            if agent := stack.first_agent + row:
                _copy(stack, row, drawn(config.seed * 1_000_003 + agent))
    return stack


def decay_groups(stack: AgentStack, weight_decay: float, norm_decay: bool) -> list[dict[str, Any]]:
    """Parameter groups for the optimizer: those of normalization layers without weight decay."""
    if weight_decay == 0 or norm_decay:
        return [{"params": list(stack.parameters())}]
    norms = normalization_parameters(stack.template)
    named = dict(stack.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named.items() if name not in norms]},
        {"params": [p for name, p in named.items() if name in norms], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def _copy(stack: AgentStack, agent: int, module: nn.Module) -> None:
    for name, p in module.named_parameters():
        dict(stack.named_parameters())[name][agent].copy_(p)
    for name, b in module.named_buffers():
        stack.buffers[name][agent].copy_(b)
