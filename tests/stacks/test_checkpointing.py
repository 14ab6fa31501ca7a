"""Activation checkpointing in a stack: what is computed again during backward is each agent's own."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastsaddle as fs

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:torch.vmap cannot map:RuntimeWarning"),
]


class Checkpointing(nn.Module):
    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.rand(8) + 0.5)
        self.reentrant = reentrant

    def block(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.first(x) * self.scale)).pow(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.block, x, use_reentrant=self.reentrant))


def gradients_alone(stack: fs.AgentStack, xs: list[Tensor]) -> dict[str, Tensor]:
    models = [stack.agent(agent) for agent in range(stack.agents)]
    for agent, model in enumerate(models):
        sum(model(x[agent]).pow(2).sum() for x in xs).backward()
    return {
        name: torch.stack([model.get_parameter(name).grad for model in models])
        for name, _ in stack.named_parameters()
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("calls", [1, 2])
def test_gradients_are_those_of_each_agents_model(calls: int, training: bool, seed: int) -> None:
    """From the first step on, with several calls before one backward pass, and after evaluation in between."""
    torch.manual_seed(seed)
    stack = fs.AgentStack(Checkpointing(), 3, init="independent", seed=seed).train(training)
    stack.buffers["scale"].copy_(torch.rand(3, 8) + 0.5)
    optimizer = fs.DSGD(stack.parameters(), lr=0.05, topology="ring")
    for _ in range(3):
        xs = [torch.randn(3, 5, 4) for _ in range(calls)]
        expected = gradients_alone(stack, xs)
        optimizer.zero_grad()
        loss = sum(stack(x).pow(2).sum() for x in xs)
        with torch.no_grad():
            stack.eval()(xs[0])
        stack.train(training)
        loss.backward()
        for name, gradient in stack.named_gradients():
            assert torch.allclose(gradient, expected[name], atol=1e-5, rtol=1e-4), name
        optimizer.step()


def test_closures_that_move_the_parameters(seed: int) -> None:
    torch.manual_seed(seed)
    module = Checkpointing()
    stack = fs.AgentStack(module, 3, init="independent", seed=seed)
    plain = fs.AgentStack(module, 3, init="independent", seed=seed)
    x = torch.randn(3, 5, 4)
    models = [stack.agent(agent) for agent in range(3)]
    optimizer = fs.QSADDLe(stack.parameters(), lr=0.05, topology="ring")
    other = fs.QSADDLe(plain.parameters(), lr=0.05, topology="ring")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = stack(x).pow(2).sum()
        loss.backward()
        return loss

    def by_models() -> Tensor:
        other.zero_grad()
        total = torch.zeros(())
        for agent, model in enumerate(models):
            for name, p in plain.named_parameters():
                model.get_parameter(name).data.copy_(p[agent].detach())
            model.zero_grad()
            loss = model(x[agent]).pow(2).sum()
            loss.backward()
            for name, p in plain.named_parameters():
                p.grad[agent] += model.get_parameter(name).grad
            total += loss.detach()
        return total

    for _ in range(3):
        optimizer.step(closure)
        other.step(by_models)
    assert torch.allclose(stack.x, plain.x, atol=1e-5)


def test_frozen_parameters_stay_frozen(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Checkpointing(), 3, init="independent", seed=seed)
    x = torch.randn(3, 5, 4)
    stack(x).sum().backward()
    stack.zero_grad()
    named = dict(stack.named_parameters())
    named["first.weight"].requires_grad_(False)
    expected = gradients_alone(stack, [x])
    stack(x).pow(2).sum().backward()
    for name, gradient in stack.named_gradients():
        if name != "first.weight":
            assert torch.allclose(gradient, expected[name], atol=1e-5, rtol=1e-4), name


def test_buffers_move_once_and_rest_when_frozen(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Checkpointing(), 3, init="independent", seed=seed)
    x = torch.randn(3, 5, 4)
    stack(x).sum().backward()
    assert stack.buffers["norm.num_batches_tracked"].tolist() == [1, 1, 1]
    before = {name: b.clone() for name, b in stack.buffers.items()}
    with stack.frozen_buffers():
        stack(x).sum().backward()
    assert all(torch.equal(b, before[name]) for name, b in stack.buffers.items())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("is_free", [True, False])
@pytest.mark.parametrize("inferred", [True, False])
def test_reentrant_checkpoints_are_refused(inferred: bool, is_free: bool, seed: int) -> None:
    """They would give the stack's parameters no gradient at all."""
    torch.manual_seed(seed)
    stack = fs.AgentStack(Checkpointing(reentrant=True), 3)
    x = torch.randn(3, 5, 4, requires_grad=True)
    for p in stack.template.parameters():
        p.requires_grad_(is_free)
    with torch.inference_mode(inferred):
        stack(x)
    outputs = stack(x)
    with pytest.raises(ValueError, match="needs use_reentrant=False"):
        outputs.sum().backward()


def test_inference_may_come_first(seed: int) -> None:
    class Recurrent(Checkpointing):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.cell(x)[0])

    torch.manual_seed(seed)
    stack = fs.AgentStack(Recurrent(), 3, init="independent", seed=seed)
    x = torch.randn(3, 5, 4)
    with torch.inference_mode(), stack.frozen_buffers():
        stack(x)
    expected = gradients_alone(stack, [x])
    stack(x).pow(2).sum().backward()
    for name, gradient in stack.named_gradients():
        assert torch.allclose(gradient, expected[name], atol=1e-5, rtol=1e-4), name
