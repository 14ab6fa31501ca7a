"""How good the agents are: their average model (the consensus), each alone, and how far apart.

On a CPU every model is tested on one thread, several models side by side. Threads that share an operation meet at
its end, and wait there for one that another process keeps from its core: on a busy machine an evaluation of five
LeNet-5 on Fashion-MNIST took 13.8 seconds of processor time on two threads, and 2.2 on one. Apart they never meet, and
no bit depends on how many they are.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle.agents import AgentStack
from fastsaddle.kernels.distance import distance
from fastsaddle.metrics import consensus_mean
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.samples import Samples
from fastsaddle.sim.engines._agent_threads import AgentThreads, draws
from fastsaddle.sim.engines._convolution_chain import in_lanes, is_faster_in_lanes
from fastsaddle.sim.run.batch_statistics import reestimate
from fastsaddle.sim.run.world import World
from fastsaddle.stacks import mapping
from fastsaddle.stacks.settings import without_fast_path

# larger batches of a convolutional network leave the caches: 1,000 took half as long again, 500 a tenth longer
IMAGES_AT_ONCE = 100
# of what is computed in blocks, which stay in the caches one by one
LANES_AT_ONCE = 512
# of agents that are mapped over: on a CPU they leave the caches too, on a GPU they leave its memory
AGENTS_AT_ONCE = 8
OUTPUTS_AT_ONCE = 16_000

Work = Callable[[], tuple[float, list[int]]]


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


def evaluate(
    stack: AgentStack,
    dataset: Dataset,
    one_by_one: bool,
    world: World | None = None,
    center: Tensor | None = None,
) -> Evaluation:
    """Test every agent's model, and the consensus, which is their average or `center`, on the data set's test part.

    Of several processes each tests the agents that it has, and the first one the consensus.

    `one_by_one` runs the agents' models each by itself instead of under vmap, for networks where that is
    faster. Running statistics of the average, which no agent has seen, are taken anew from training data.
    """
    images, labels = dataset.test, dataset.test_labels
    models = stack.rows.models()
    mean = consensus_mean(models) if world is None else world.mean(models)
    consensus = stack.consensus(mean if center is None else center)

    def average() -> tuple[float, list[int]]:
        reestimate(consensus, dataset.train)
        loss, right = _test(consensus, images, labels)
        return loss, [right]

    def alone(agent: int) -> tuple[float, list[int]]:
        return 0.0, [_test(stack.agent(agent), images, labels)[1]]

    def together(first: int) -> tuple[float, list[int]]:
        return 0.0, _count_mapped(stack, slice(first, first + at_once), images, labels)

    at_once = AGENTS_AT_ONCE if images.device.type == "cpu" else stack.agents
    plain = one_by_one or is_faster_in_lanes(consensus, images[:1]) or not _is_mapped(stack, images)
    if plain:
        work: list[Work] = [lambda i=i: alone(i) for i in range(stack.agents)]  # type: ignore[misc]
    else:
        work = [lambda i=i: together(i) for i in range(0, stack.agents, at_once)]  # type: ignore[misc]
    # a setting of all threads, which mapping would change while others compute
    with nullcontext() if plain else without_fast_path():
        is_first = world is None or world.is_first
        found = _apart([average, *work] if is_first else work, consensus, images)
    loss, (right,) = found.pop(0) if is_first else (0.0, [0])
    counts = [count for _, mine in found for count in mine]
    squared_distance = torch.empty(stack.agents, dtype=torch.float64, device=models.device)
    distance(models, mean, squared_distance)
    if world is not None:
        squared_distance = world.rows(squared_distance)
        loss, right = world.share([loss, right])
        counts = world.rows(torch.tensor(counts, dtype=torch.int64)).tolist()
    return Evaluation(
        loss=loss / len(labels),
        consensus_accuracy=right / len(labels),
        mean_accuracy=sum(counts) / (len(counts) * len(labels)),
        worst_accuracy=min(counts) / len(labels),
        consensus_distance=float(squared_distance.mean().sqrt()),
    )


def _apart(work: list[Work], model: nn.Module, images: Samples) -> list[tuple[float, list[int]]]:
    """What each of `work` comes to, each on one thread; on a GPU, in turn as they are.

    Models that draw random numbers in evaluation too follow each other.
    """

    @torch.no_grad()
    def done(index: int) -> tuple[float, list[int]]:
        return work[index]()

    if images.device.type != "cpu" or not torch.backends.openmp.is_available():
        return [done(index) for index in range(len(work))]
    threads = min(torch.get_num_threads(), len(work))
    with _one_thread():
        if threads == 1 or draws(lambda: model.eval()(images[:1])):
            return [done(index) for index in range(len(work))]
    side_by_side = AgentThreads(threads)
    try:
        return side_by_side.run(done, len(work))
    finally:
        side_by_side.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operations inside run on the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _test(model: nn.Module, images: Samples, labels: Tensor) -> tuple[float, int]:
    """Summed cross entropy and the number of right answers."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    forward = in_lanes(model, images[:1])
    size = IMAGES_AT_ONCE if forward is None else LANES_AT_ONCE
    for batch, targets in _batches(images, labels, size):
        outputs = model(batch) if forward is None else forward(batch)
        loss += F.cross_entropy(outputs, targets, reduction="sum")
        right += (outputs.argmax(dim=-1) == targets).sum()
    return loss.item(), int(right.item())


@torch.no_grad()
def _is_mapped(stack: AgentStack, images: Samples) -> bool:
    """Whether torch.vmap can map the module in evaluation; said where it cannot."""
    training = stack.training
    stack.eval()
    try:
        reason = stack.obstacle(images[:1].expand(stack.agents, 1, *images.shape))
    finally:
        stack.train(training)
    if reason is not None:
        said = f"evaluation runs agents one by one, torch.vmap cannot map {reason}"
        warnings.warn(said, RuntimeWarning, stacklevel=2)
    return reason is None


def _count_mapped(stack: AgentStack, part: slice, images: Samples, labels: Tensor) -> list[int]:
    """Right answers of each agent of a part of them, all in one forward pass."""
    # threads must not meet in one module, which takes the agents' parameters meanwhile
    module = mapping.copy_of(stack.template).eval()
    parameters = {name: p.detach()[part] for name, p in stack.named_parameters()}
    agents = len(range(*part.indices(stack.agents)))
    size = max(1, min(IMAGES_AT_ONCE, OUTPUTS_AT_ONCE // agents))
    right = torch.zeros(agents, dtype=torch.int64, device=labels.device)
    for batch, targets in _batches(images, labels, size):
        # what the module assigns or changes stays here
        buffers = {name: b[part].clone() for name, b in stack.buffers.items()}
        inputs = mapping.Arguments((batch.expand(agents, *batch.shape),))
        outputs = mapping.mapped(module, parameters, buffers, inputs)
        right += (outputs.argmax(dim=-1) == targets).sum(dim=1)
    return right.tolist()


def _batches(images: Samples, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for first, targets in zip(range(0, len(labels), size), labels.split(size), strict=True):
        yield images[first : first + size], targets
