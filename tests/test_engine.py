"""The gradient engines: every agent's gradient is the one its own module would give."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.engine import GradientEngine, choose_engine

AGENTS, BATCH = 5, 7


def network(kind: str) -> nn.Module:
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
    ("engine", "chunk"), [("vmap", None), ("vmap", 1), ("vmap", 2), ("vmap", 9), ("loop", None)]
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


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_statistics_move_once_a_saddle_step(engine: str, seed: int) -> None:
    stack = fs.AgentStack(network("batch-norm"), AGENTS)
    optimizer = fs.QSADDLe(stack.parameters(), topology="ring")
    gradients = GradientEngine(stack, F.cross_entropy, engine)
    images, labels = batch(seed)
    for step in range(1, 4):
        optimizer.step(lambda: gradients.gradients(images, labels).mean())
        assert stack.buffers["2.num_batches_tracked"].tolist() == [step] * AGENTS


@pytest.mark.parametrize("engine", ["vmap", "loop"])
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
    for engine in ("vmap", "loop"):
        stack = fs.AgentStack(module, AGENTS)
        GradientEngine(stack, F.cross_entropy, engine).gradients(images, labels)
        found = dict(stack.named_gradients())
        assert not found["1.weight"].any() and found["1.bias"].any()


def test_the_rule_and_its_errors() -> None:
    cpu = torch.device("cpu")
    assert choose_engine(network("mlp"), cpu, 16) == "vmap"
    assert choose_engine(network("cnn"), cpu, 16) == "loop"
    assert choose_engine(network("cnn"), torch.device("cuda"), 2) == "vmap"
    assert choose_engine(nn.LSTM(4, 4), cpu, 16) == "loop"
    assert choose_engine(nn.Embedding(4, 4), cpu, 16) == "loop"
    assert choose_engine(nn.Embedding(4, 4), torch.device("cuda"), 2) == "vmap"
    assert choose_engine(network("mlp"), cpu, 7) == "loop"
    stack = fs.AgentStack(network("mlp"), AGENTS)
    with pytest.raises(ValueError, match="auto, vmap or loop"):
        GradientEngine(stack, F.cross_entropy, "fast")
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
