"""How good the agents are: their average model (the consensus), each alone, and how far apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle.agents import AgentStack
from fastsaddle.metrics import consensus_distance
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run.batch_statistics import reestimate

# larger batches of a convolutional network leave the caches: 500 took almost twice as long
IMAGES_AT_ONCE = 100
OUTPUTS_AT_ONCE = 16_000


@dataclass(frozen=True)
class Evaluation:
    """Results on the whole test set; accuracies are fractions.

    `loss` is the consensus model's mean cross entropy, `consensus_accuracy` its accuracy;
    `mean_accuracy` and `worst_accuracy` are over the agents' own models; `consensus_distance` is
    the root mean square distance of the agents' parameters to their mean.
    """

    loss: float
    consensus_accuracy: float
    mean_accuracy: float
    worst_accuracy: float
    consensus_distance: float


@torch.no_grad()
def evaluate(
    stack: AgentStack, consensus: nn.Module, dataset: Dataset, one_by_one: bool
) -> Evaluation:
    """Test every agent's model, and `consensus`, mostly their average, on the data set's test part.

    `one_by_one` runs the agents' models in a loop instead of under vmap, for networks where that is
    faster. Running statistics of the average, which no agent has seen, are taken anew from training data.
    """
    images, labels = dataset.test_inputs, dataset.test_labels
    reestimate(consensus, dataset.train_inputs)
    loss, right = _test(consensus, images, labels)
    if one_by_one:
        counts = [_test(stack.agent(i), images, labels)[1] for i in range(stack.agents)]
    else:
        counts = _count_stacked(stack, images, labels)
    return Evaluation(
        loss=loss / len(labels),
        consensus_accuracy=right / len(labels),
        mean_accuracy=sum(counts) / (stack.agents * len(labels)),
        worst_accuracy=min(counts) / len(labels),
        consensus_distance=float(consensus_distance(stack.x)),
    )


def _test(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, int]:
    """Summed cross entropy and the number of right answers."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    for batch, targets in _batches(images, labels, IMAGES_AT_ONCE):
        outputs = model(batch)
        loss += F.cross_entropy(outputs, targets, reduction="sum")
        right += (outputs.argmax(dim=-1) == targets).sum()
    return loss.item(), int(right.item())


def _count_stacked(stack: AgentStack, images: Tensor, labels: Tensor) -> list[int]:
    """Right answers of each agent, all agents in one forward pass."""
    size = max(1, min(IMAGES_AT_ONCE, OUTPUTS_AT_ONCE // stack.agents))
    right = torch.zeros(stack.agents, dtype=torch.int64, device=labels.device)
    stack.eval()
    try:
        with stack.frozen_buffers():
            for batch, targets in _batches(images, labels, size):
                outputs = stack(batch.expand(stack.agents, *batch.shape))
                right += (outputs.argmax(dim=-1) == targets).sum(dim=1)
    finally:
        stack.train()
    return right.tolist()


def _batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(images.split(size), labels.split(size), strict=True)
