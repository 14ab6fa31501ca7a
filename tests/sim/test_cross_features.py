"""The cross-feature contrastive loss against a per-agent oracle in float64, written from its equations."""

import copy
import dataclasses
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run.cross_features import CrossFeatures
from fastsaddle.sim.run.sharp_samples import SharpSamples
from fastsaddle.sim.run.simulation import Simulation
from tests.optimizers.agent_losses import GRAPHS, close

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS, BATCH, CLASSES, RATE = 5, 9, 4, 0.1
each_engine = pytest.mark.parametrize(
    ("engine", "chunk"), [("vmap", None), ("vmap", 2), ("loop", None)]
)
each_weight = pytest.mark.parametrize("weights", [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
KITE, W, _ = GRAPHS["kite"]


def network(kind: str) -> nn.Sequential:
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    if kind == "batch-norm":
        return nn.Sequential(nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 5, 3), nn.Flatten(), nn.Linear(8, CLASSES)
    )


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Agents without some of the classes, as samples that are not split evenly give."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (AGENTS, BATCH), generator=draw)
    return torch.randn(AGENTS, BATCH, 64, generator=draw), labels + torch.arange(AGENTS)[
        :, None
    ] % 3


def models(stack: fs.AgentStack) -> list[Any]:
    return [stack.agent(i).double() for i in range(stack.agents)]


def phi(model: Any, inputs: Tensor) -> Tensor:
    return model[:-1](inputs.double())


def pull(
    fixed: list[Any], i: int, inputs: Tensor, labels: Tensor, neighbors: list[int]
) -> tuple[list[Tensor], Tensor]:
    """What agent i's features are drawn to: those of its neighbors' models, and the mean of each sample's class."""
    with torch.no_grad():
        theirs = [phi(fixed[j], inputs[i]) for j in neighbors]
        everywhere = [(phi(fixed[i], inputs[j]), labels[j]) for j in (i, *neighbors)]
        centers = []
        for label in labels[i]:
            members = torch.cat([features[own == label] for features, own in everywhere])
            centers.append(members.mean(0))
    return theirs, torch.stack(centers)


def oracle_loss(
    model: Any, inputs: Tensor, labels: Tensor, drawn: tuple[list[Tensor], Tensor], weights: Any
) -> Tensor:
    features = phi(model, inputs)
    loss = F.cross_entropy(model[-1](features), labels)
    of_models = sum(F.mse_loss(features, other) for other in drawn[0])
    return loss + weights[0] * of_models + weights[1] * F.mse_loss(features, drawn[1])


def near(i: int) -> list[int]:
    return [j for j in range(AGENTS) if j != i and W[i, j] > 0]


def build(
    engine: str, chunk: int | None, weights: Any, kind: str, seed: int, **more: Any
) -> CrossFeatures:
    module = network(kind)
    stack = fs.AgentStack(module, AGENTS, init="independent", seed=seed % 2**20)
    gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)
    return CrossFeatures(gradients, KITE, CLASSES, *weights, **more)


@each_engine
@each_weight
@pytest.mark.parametrize("kind", ["mlp", "cnn", "batch-norm"])
def test_losses_and_gradients(
    kind: str, weights: Any, engine: str, chunk: int | None, seed: int
) -> None:
    cross = build(engine, chunk, weights, kind, seed)
    stack = cross.engine.stack
    inputs, labels = batch(seed)
    alone, before = models(stack), [b.clone() for b in stack.buffers.values()]
    targets = cross.targets(inputs, labels)
    assert all(map(torch.equal, before, stack.buffers.values()))
    losses = cross.gradients(inputs, targets)
    found = dict(stack.named_gradients())
    fixed = copy.deepcopy(alone)
    for i, model in enumerate(alone):
        drawn = pull(fixed, i, inputs, labels, near(i))
        loss = oracle_loss(model, inputs[i], labels[i], drawn, weights)
        loss.backward()
        close(losses[i].double(), loss.detach())
        for name, p in model.named_parameters():
            close(found[name][i].double(), p.grad)
        if kind == "batch-norm":
            assert stack.buffers["1.num_batches_tracked"][i] == 1
            close(stack.buffers["1.running_mean"][i].double(), F.linear(
                inputs[i].double(), model[0].weight, model[0].bias
            ).mean(0).detach() * 0.1)  # fmt: skip


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def sharp_step(
    stack: fs.AgentStack, inputs: Tensor, labels: Tensor, weights: Any, rho: float, kept: int
) -> tuple[Tensor, float]:
    """Agents' models after their local steps, and how near another choice of samples came."""
    fixed, stepped, margin = models(stack), [], torch.inf
    for i, model in enumerate(models(stack)):
        theirs, centers = pull(fixed, i, inputs, labels, near(i))
        p, start = list(model.parameters()), flat(model.parameters()).detach().clone()

        def each(
            model: Any = model, i: int = i, theirs: Any = theirs, centers: Any = centers
        ) -> Tensor:
            """Of one sample at a time."""
            found = []
            for s in range(BATCH):
                drawn = [other[[s]] for other in theirs], centers[[s]]
                found.append(oracle_loss(model, inputs[i, [s]], labels[i, [s]], drawn, weights))
            return torch.stack(found)

        before = each()
        g = torch.autograd.grad(before.mean(), p)
        with torch.no_grad():
            for value, part in zip(p, g, strict=True):
                value.add_(rho * part / (flat(g).norm() + 1e-12))
        after = each()
        grown = (after - before).detach().sort(descending=True)
        if kept < BATCH:
            margin = min(margin, float(grown.values[kept - 1] - grown.values[kept]))
        gs = torch.autograd.grad(after[grown.indices[:kept]].mean(), p)
        stepped.append(start - RATE * flat(gs))
    return torch.stack(stepped), margin


@each_engine
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_both_passes_of_a_sam_step_are_drawn_to_the_same(
    fraction: float, engine: str, chunk: int | None, seed: int
) -> None:
    """What is aimed at is found at the models that a step begins with; ESAM may leave samples out."""
    rho, weights = 0.2, (0.3, 0.2)
    while True:
        cross = build(engine, chunk, weights, "mlp", seed)
        stack, (inputs, labels) = cross.engine.stack, batch(seed)
        stepped, margin = sharp_step(stack, inputs, labels, weights, rho, int(fraction * BATCH))
        if margin > 1e-5:
            break
        seed += 1
    sam = fs.ESAM(weights=1.0, samples=fraction)
    optimizer = fs.DSADDLe(stack.parameters(), lr=RATE, topology=KITE, rho=rho, sam=sam)
    sharp = SharpSamples(cross.engine, optimizer, cross.losses, cross.layer)
    targets = cross.targets(inputs, labels)
    if fraction == 1.0:
        optimizer.step(lambda: cross.gradients(inputs, targets).mean())
    else:
        optimizer.step(lambda: sharp.gradients(inputs, targets)[0].mean())
    now = torch.cat([p.detach().flatten(1) for p in stack.parameters()], 1).double()
    close(now, W @ stepped)


@each_engine
def test_nobody_to_compare_with(engine: str, chunk: int | None, seed: int) -> None:
    """A single agent is drawn to the means of its own classes only."""
    stack = fs.AgentStack(network("mlp"), 1)
    gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)
    cross = CrossFeatures(gradients, fs.topology.ring(1), CLASSES, 0.3, 0.2)
    inputs, labels = (part[:1] for part in batch(seed))
    [model], fixed = models(stack), models(stack)
    expected = oracle_loss(
        model, inputs[0], labels[0], pull(fixed, 0, inputs, labels, []), (0, 0.2)
    )
    losses = cross.gradients(inputs, cross.targets(inputs, labels))
    close(losses.double(), expected.detach()[None])
    assert cross.nbytes == 0


def test_bytes() -> None:
    """A model to each neighbor unless it is sent anyway; sums and counts of each class back."""
    dim, told, edges = 65 * 6 + 7 * CLASSES, CLASSES * (6 + 1), 5
    for weights, sent, expected in (
        ((0.1, 0.0), False, dim),
        ((0.1, 0.1), False, dim + told),
        ((0.1, 0.0), True, 0),
        ((0.0, 0.1), True, told),
    ):
        cross = build("vmap", None, weights, "mlp", 3, models_are_sent=sent)
        assert cross.nbytes == 4 * 2 * edges * expected


class Words(nn.Module):
    """Its last Linear layer is given every position."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.unflatten(1, (8, 8)))).mean(1)


def test_networks_without_features(seed: int) -> None:
    inputs, labels = batch(seed)
    stack = fs.AgentStack(nn.Sequential(nn.Unflatten(1, (64, 1)), nn.Conv1d(64, 4, 1)), AGENTS)
    engine = GradientEngine(stack, F.cross_entropy)
    with pytest.raises(ValueError, match="need a network with a Linear layer, Sequential has none"):
        CrossFeatures(engine, KITE, CLASSES, 0.1, 0.1)
    engine = GradientEngine(fs.AgentStack(Words(), AGENTS), F.cross_entropy)
    cross = CrossFeatures(engine, KITE, CLASSES, 0.1, 0.1)
    with pytest.raises(ValueError, match=r"must be given \[batch, features\], got \(9, 8, 5\)"):
        cross.targets(inputs, labels)


def test_the_kite_is_irregular() -> None:
    graph = nx.from_numpy_array((W > 0).fill_diagonal_(False).int().numpy())
    assert len(set(dict(graph.degree).values())) > 2


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ({"algorithm": "dsgd"}, 1),
        ({"algorithm": "gut"}, 0),
        ({"algorithm": "qsaddle", "sam": "esam:0.6:0.5"}, 1),
    ],
)
def test_a_run(options: dict[str, Any], models: int) -> None:
    """The loss is on top of the cross entropy, its bytes on top of the algorithm's; it goes on bit for bit."""
    common = TrainConfig(agents=4, batch_size=8, steps=4, **options)
    plain = Simulation(common)
    config = dataclasses.replace(common, ccl_model=0.1, ccl_data=0.2)
    whole, again = Simulation(config), Simulation(config)
    # the same models yet
    assert whole.step(0) > plain.step(0)
    whole.step(1)
    plain.step(1)
    dim, told = plain.stack.layout.dim, 10 * (50 + 1)
    sent = [int(run.optimizer.bytes_sent) for run in (whole, plain)]
    assert sent[0] - sent[1] == 2 * 4 * 8 * (models * dim + told)
    assert whole.evaluations == plain.evaluations
    again.restore({name: t.clone() for name, t in whole.tensors().items()}, whole.counters())
    for step in range(2, 4):
        assert torch.equal(whole.step(step), again.step(step))
    assert torch.equal(whole.stack.x, again.stack.x)
    assert again.optimizer.bytes_sent == whole.optimizer.bytes_sent


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"ccl_model": -0.1}, "--ccl-model must be finite and >= 0, got -0.1"),
        ({"ccl_data": float("inf")}, "--ccl-data must be finite and >= 0, got inf"),
        (
            {"ccl_model": 0.1, "algorithm": "nsaddle"},
            r"need an algorithm on a graph without cross-gradients \(d2, dsaddle, .*, got nsaddle",
        ),
        ({"ccl_data": 0.1, "algorithm": "dppf"}, "without cross-gradients .*, got dppf"),
        ({"ccl_data": 0.1, "compressor": "sign"}, "models sent whole, got --compressor sign"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        TrainConfig(**options).check()
