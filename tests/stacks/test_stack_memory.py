"""Tied weights: one object under two names is one parameter of a stack; shared memory is refused."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.gradient_engine import GradientEngine

pytestmark = pytest.mark.usefixtures("one_thread")


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self, tokens: int = 11, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(x))))


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("way", ["stack", "vmap", "loop"])
def test_a_tied_head_stays_tied(way: str, seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Tied(), 3, init="independent", seed=seed)
    assert [name for name, _ in stack.named_parameters()] == [
        *("embedding.weight", "hidden.weight", "hidden.bias")
    ]
    models = [stack.agent(i) for i in range(3)]
    alone = fs.topology.from_matrix(torch.eye(3), allow_disconnected=True)
    optimizer = fs.QGM(stack.parameters(), lr=0.1, topology=alone)
    plain = [fs.QGM(model.parameters(), lr=0.1) for model in models]
    engine = None if way == "stack" else GradientEngine(stack, token_loss, way)
    for _ in range(4):
        tokens = torch.randint(11, (3, 5, 7))
        optimizer.zero_grad()
        if engine is None:
            stack.loss(token_loss, stack(tokens[..., :-1]), tokens[..., 1:]).backward()
        else:
            engine.gradients(tokens[..., :-1], tokens[..., 1:])
        optimizer.step()
        for model, own, its in zip(models, plain, tokens, strict=True):
            own.zero_grad()
            token_loss(model(its[:, :-1]), its[:, 1:]).backward()
            own.step()
    for i, model in enumerate(models):
        taken = stack.agent(i)
        assert taken.head.weight is taken.embedding.weight
        for p, q in zip(taken.parameters(), model.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)
    mean = stack.consensus()
    assert mean.head.weight is mean.embedding.weight


def test_weights_tied_by_memory_are_refused_as_by_optimizers(seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight.data = module[0].weight.data
    rule = "must not share memory"
    with pytest.raises(ValueError, match=rule) as by_optimizer:
        fs.DSGD(copy_of_ties(module).parameters())
    with pytest.raises(ValueError, match=rule) as by_stack:
        fs.AgentStack(module, 2)
    assert str(by_stack.value) == str(by_optimizer.value)
    # parts of one tensor overlap
    whole = torch.randn(7)
    module = nn.ParameterList([nn.Parameter(whole[:4]), nn.Parameter(whole[3:])])
    with pytest.raises(ValueError, match=rule):
        fs.AgentStack(module, 2)
    # side by side they do not
    beside = nn.ParameterList([nn.Parameter(whole[:4]), nn.Parameter(whole[4:])])
    assert fs.AgentStack(beside, 2).layout.dim == 7


def copy_of_ties(module: nn.Sequential) -> nn.Sequential:
    copied = copy.deepcopy(module)
    copied[1].weight.data = copied[0].weight.data
    return copied


def test_buffers_in_a_parameters_memory_are_refused() -> None:
    module = nn.Linear(3, 3)
    module.register_buffer("shadow", module.weight.data[1:])
    rule = "buffers must not share memory with parameters, shadow does with weight"
    with pytest.raises(ValueError, match=re.escape(rule)):
        fs.AgentStack(module, 2)
