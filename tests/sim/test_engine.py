"""The gradient engines: every agent's gradient is the one its own module would give."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.engines._choice import choose_engine
from fastsaddle.sim.engines._features import last_linear
from fastsaddle.sim.gradient_engine import GradientEngine

AGENTS, BATCH = 5, 7


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """So that "threads" has some, and the others few that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network(kind: str) -> nn.Sequential:
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Tanh(), nn.Linear(9, 3))
    if kind == "batch-norm":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.BatchNorm1d(9), nn.Linear(9, 3))
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(AGENTS, BATCH, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 3, (AGENTS, BATCH), generator=generator)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "batch-norm"])
@pytest.mark.parametrize(
    ("engine", "chunk"),
    [
        *(("vmap", None), ("vmap", 1), ("vmap", 2), ("vmap", 9)),
        *(("unfold", None), ("unfold", 2), ("loop", None), ("threads", None)),
    ],
)
def test_gradients_are_those_of_plain_modules(
    kind: str, engine: str, chunk: int | None, seed: int
) -> None:
    stack = fs.AgentStack(network(kind), AGENTS, init="independent", seed=seed)
    images, labels = batch(seed)
    models = [stack.agent(i) for i in range(AGENTS)]
    gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)
    for part in dict(stack.named_gradients()).values():
        part.fill_(float("nan"))
    losses = gradients.gradients(images, labels)
    found = dict(stack.named_gradients())
    for i, model in enumerate(models):
        loss = F.cross_entropy(model(images[i]), labels[i])
        loss.backward()
        assert torch.allclose(losses[i], loss, atol=1e-6)
        for name, p in model.named_parameters():
            assert p.grad is not None
            assert torch.allclose(found[name][i], p.grad, rtol=1e-4, atol=1e-6), name
        for name, buffer in model.named_buffers():
            assert torch.allclose(stack.buffers[name][i].float(), buffer.float(), atol=1e-6), name
    assert not losses.requires_grad


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("engine", "chunk"), [("vmap", None), ("vmap", 2), ("unfold", None)])
def test_gradients_of_cross_entropy_as_gpus_take_them(
    engine: str, chunk: int | None, precision: str, seed: int
) -> None:
    images, labels = batch(seed)
    found = []
    for by_hand in (False, True):
        stack = fs.AgentStack(network("cnn"), AGENTS, init="independent", seed=seed)
        next(stack.parameters()).requires_grad_(seed % 2 == 0)
        gradients = GradientEngine(stack, F.cross_entropy, engine, chunk, precision)
        mapped: Any = gradients._runs
        assert not mapped._by_hand
        mapped._by_hand = by_hand
        found.append((gradients.gradients(images, labels), stack.g.clone()))
        # a loss that returns more goes the long way
        more = gradients.gradients(
            images, labels, lambda outputs, y: (F.cross_entropy(outputs, y), outputs)
        )
        assert torch.equal(more[0], found[0][0])
    (losses, g), (its_losses, its_g) = found
    assert torch.allclose(losses, its_losses, rtol=1e-6, atol=1e-7)
    allowed = {"float32": 1e-6, "bfloat16": 2e-2}[precision]
    assert g.norm() > 0 and (g - its_g).norm() < allowed * g.norm()


@pytest.mark.parametrize("engine", ["vmap", "loop", "threads"])
def test_statistics_move_once_a_saddle_step(engine: str, seed: int) -> None:
    stack = fs.AgentStack(network("batch-norm"), AGENTS)
    optimizer = fs.QSADDLe(stack.parameters(), topology="ring")
    gradients = GradientEngine(stack, F.cross_entropy, engine)
    images, labels = batch(seed)
    for step in range(1, 4):
        optimizer.step(lambda: gradients.gradients(images, labels).mean())
        assert stack.buffers["2.num_batches_tracked"].tolist() == [step] * AGENTS


@pytest.mark.parametrize("engine", ["vmap", "loop", "threads"])
def test_engine_follows_parameters_that_were_laid_out_anew(engine: str, seed: int) -> None:
    stack = fs.AgentStack(network("mlp"), AGENTS)
    gradients = GradientEngine(stack, F.cross_entropy, engine)
    images, labels = batch(seed)
    gradients.gradients(images, labels)
    before = {name: g.clone() for name, g in stack.named_gradients()}
    # groups in another order move the columns
    optimizer = fs.DSGD(
        [{"params": [p]} for p in reversed(list(stack.parameters()))], topology="ring"
    )
    gradients.gradients(images, labels)
    for name, g in stack.named_gradients():
        assert torch.equal(g, before[name])
    start = stack.x.clone()
    optimizer.step()
    assert not torch.equal(start, stack.x)


def test_frozen_parameters_get_no_gradient(seed: int) -> None:
    module = network("mlp")
    module[1].weight.requires_grad_(False)
    images, labels = batch(seed)
    for engine in ("vmap", "loop", "threads"):
        stack = fs.AgentStack(module, AGENTS)
        GradientEngine(stack, F.cross_entropy, engine).gradients(images, labels)
        found = dict(stack.named_gradients())
        assert not found["1.weight"].any() and found["1.bias"].any()


def test_the_rule_and_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    mapped = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert choose_engine(mapped, cpu, 16) == "vmap"
    cuda = torch.device("cuda")
    normed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    assert choose_engine(normed, cpu, 16) == "threads"
    assert choose_engine(normed, cpu, 1) == "loop"
    assert choose_engine(normed, cuda, 2) == "vmap"
    assert choose_engine(nn.LSTM(4, 4), cpu, 16) == "threads"
    assert choose_engine(nn.LSTM(4, 4), cuda, 16) == "loop"
    assert choose_engine(nn.Embedding(4, 4), cpu, 16) == "threads"
    assert choose_engine(nn.Embedding(4, 4), cuda, 2) == "vmap"
    assert choose_engine(mapped, cpu, 7) == "threads"
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert choose_engine(normed, cpu, 16) == "loop"
    assert choose_engine(network("mlp"), cpu, 7) == "batched"
    stack = fs.AgentStack(network("mlp"), AGENTS)
    with pytest.raises(
        ValueError,
        match=r"batched, implicit, lanes, loop, threads, unfold, vmap, or .*, got 'fast'",
    ):
        GradientEngine(stack, F.cross_entropy, "fast")
    with pytest.raises(ValueError, match="engine threads needs a CPU and a torch built with OpenM"):
        GradientEngine(stack, F.cross_entropy, "threads")
    with pytest.raises(ValueError, match="at least 1"):
        GradientEngine(stack, F.cross_entropy, "vmap", 0)
    engine = GradientEngine(stack, F.cross_entropy, "vmap")
    with pytest.raises(ValueError, match=r"\[5, batch"):
        engine.gradients(torch.zeros(4, 2, 1, 8, 8), torch.zeros(5, 2, dtype=torch.long))


def test_many_agents_are_mapped_in_parts() -> None:
    inputs = torch.randn(70, 2, 1, 8, 8)
    targets = torch.randint(0, 3, (70, 2))
    stack = fs.AgentStack(network("mlp"), 70)
    parts, whole = (GradientEngine(stack, F.cross_entropy, "vmap", c) for c in (None, 70))
    assert parts.chunk == 64
    parts.gradients(inputs, targets)
    found = stack.g.clone()
    whole.gradients(inputs, targets)
    torch.testing.assert_close(found, stack.g)


def with_norms(outputs: torch.Tensor, targets: dict[str, torch.Tensor]) -> Any:
    """A loss over a tree of targets, with a tree of more."""
    each = F.cross_entropy(outputs, targets["labels"], reduction="none")
    loss = targets["weight"] * each.mean() + targets["pair"][0].dot(each)
    return loss, {"each": each, "some": (outputs[:2], loss)}


@pytest.mark.parametrize("kind", ["mlp", "cnn", "batch-norm"])
@pytest.mark.parametrize(
    ("engine", "chunk"),
    [
        *(("vmap", None), ("vmap", 1), ("vmap", 2)),
        *(("unfold", 2), ("loop", None), ("threads", None)),
    ],
)
def test_losses_over_trees_return_more(
    kind: str, engine: str, chunk: int | None, seed: int
) -> None:
    stack = fs.AgentStack(network(kind), AGENTS, init="independent", seed=seed)
    images, labels = batch(seed)
    models = [stack.agent(i) for i in range(AGENTS)]
    weight, pair = torch.rand(AGENTS), torch.rand(AGENTS, BATCH)
    targets = {"labels": labels, "weight": weight, "pair": (pair,)}
    gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)
    losses, more = gradients.gradients(images, targets, with_norms)
    found = dict(stack.named_gradients())
    for i, model in enumerate(models):
        outputs = model(images[i])
        mine = {"labels": labels[i], "weight": weight[i], "pair": (pair[i],)}
        loss, expected = with_norms(outputs, mine)
        loss.backward()
        assert torch.allclose(losses[i], loss, atol=1e-6)
        assert torch.allclose(more["each"][i], expected["each"], atol=1e-6)
        assert torch.allclose(more["some"][0][i], outputs[:2], atol=1e-6)
        gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert gradient.keys() == found.keys()
        # a bias before batch norm has a gradient of rounding errors alone, as large as the others let them be
        largest = max(1.0, *(float(g.abs().max()) for g in gradient.values()))
        for name, g in gradient.items():
            assert torch.allclose(found[name][i], g, rtol=1e-4, atol=1e-6 * largest), name
    assert torch.equal(more["some"][1], losses)
    assert not any(t.requires_grad for t in (losses, more["each"], more["some"][0]))


@pytest.mark.parametrize(
    ("engine", "chunk"), [("vmap", None), ("vmap", 2), ("loop", None), ("threads", None)]
)
def test_features_are_the_input_of_the_last_layer(
    engine: str, chunk: int | None, seed: int
) -> None:
    stack = fs.AgentStack(network("batch-norm"), AGENTS, init="independent", seed=seed)
    images, labels = batch(seed)
    models = [stack.agent(i) for i in range(AGENTS)]
    gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)

    def loss(outputs: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> Any:
        scores, phi = outputs
        return F.cross_entropy(scores, labels) + phi.square().mean(), phi

    layer = last_linear(stack.template)
    losses, features = gradients.gradients(images, labels, loss, layer)
    found = dict(stack.named_gradients())
    assert features.shape == (AGENTS, BATCH, 9)
    for i, model in enumerate(models):
        assert isinstance(model, nn.Sequential)
        phi = model[:-1](images[i])
        expected = F.cross_entropy(model[-1](phi), labels[i]) + phi.square().mean()
        expected.backward()
        assert torch.allclose(features[i], phi, atol=1e-6)
        assert torch.allclose(losses[i], expected, atol=1e-6)
        for name, p in model.named_parameters():
            assert p.grad is not None
            assert torch.allclose(found[name][i], p.grad, rtol=1e-4, atol=1e-6), name

    def fails(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        raise KeyError("interrupted")

    with pytest.raises(KeyError, match="interrupted"):
        gradients.gradients(images, labels, fails, layer)
    # networks are as they were: one output
    assert isinstance(stack(images), torch.Tensor)
    assert isinstance(gradients.outputs(images), torch.Tensor)
    with pytest.raises(ValueError, match="need a network with a Linear layer, Conv2d has none"):
        last_linear(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("kind", ["mlp", "cnn", "batch-norm"])
@pytest.mark.parametrize(
    ("engine", "chunk"),
    [
        *(("vmap", None), ("vmap", 2), ("vmap", 9)),
        *(("unfold", None), ("loop", None), ("threads", None)),
    ],
)
def test_outputs_of_anybodys_model(kind: str, engine: str, chunk: int | None, seed: int) -> None:
    stack = fs.AgentStack(network(kind), AGENTS, init="independent", seed=seed)
    images, labels = batch(seed)
    gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)
    gradients.gradients(images, labels)
    before = [t.clone() for t in (stack.x, stack.g, *stack.buffers.values())]
    whose = [3, 0, 3, 4, 1]
    found = gradients.outputs(images, torch.tensor(whose))
    own, features = gradients.outputs(images, features=last_linear(stack.template))
    for i, other in enumerate(whose):
        assert torch.allclose(found[i], stack.agent(other)(images[i]), atol=1e-5)
        assert torch.allclose(own[i], stack.agent(i)(images[i]), atol=1e-5)
    assert features.shape == (AGENTS, BATCH, 144 if kind == "cnn" else 9)
    assert not found.requires_grad
    after = (stack.x, stack.g, *stack.buffers.values())
    assert all(map(torch.equal, before, after))
    with pytest.raises(ValueError, match=r"inputs must be \[5, batch"):
        gradients.outputs(images[:4])
    with pytest.raises(ValueError, match=r"targets must be \[5, batch, ...\], got \(4, 7\)"):
        gradients.gradients(images, (labels, labels[:4]))
