"""Copies of a stack hold its models, also while an optimizer has its parameters elsewhere."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")


def saved(stack: Any) -> Any:
    file = io.BytesIO()
    torch.save(stack, file)
    file.seek(0)
    # our own bytes
    return torch.load(file, weights_only=False)


COPIES = [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), saved]
each_copy = pytest.mark.parametrize("how", COPIES, ids=["deepcopy", "pickle", "torch.save"])


def loss_of(stack: fs.AgentStack, x: Tensor) -> Tensor:
    return stack.loss(lambda outputs: outputs.pow(2).mean(), stack(x))


def step(stack: fs.AgentStack, optimizer: fs.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    loss_of(stack, x).backward()
    optimizer.step()


def begun(seed: int) -> tuple[fs.AgentStack, Tensor]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return fs.AgentStack(module, 3, init="independent", seed=seed), torch.randn(3, 6, 4)


def ahead(seed: int) -> tuple[fs.AgentStack, fs.Optimizer, Tensor]:
    """Trained as loops without closures do it: parameters stand where the next gradient is taken."""
    stack, x = begun(seed)
    optimizer = fs.QSADDLe(
        stack.parameters(), lr=0.1, rho=0.3, sam=fs.MomentumSAM(), topology="ring"
    )
    optimizer.train()
    for _ in range(2):
        step(stack, optimizer, x)
    return stack, optimizer, x


def perturbed(seed: int) -> tuple[fs.AgentStack, fs.Optimizer, Tensor]:
    stack, x = begun(seed)
    optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, rho=0.5, topology="ring")
    loss_of(stack, x).backward()
    optimizer.perturb(zero_grad=True)
    return stack, optimizer, x


@each_copy
@pytest.mark.parametrize("made", [ahead, perturbed])
def test_a_copy_holds_the_models(
    made: Callable[..., Any], how: Callable[..., Any], seed: int
) -> None:
    stack, _optimizer, x = made(seed)
    models, moved = stack.state_dict(), stack.x.clone()
    twin = how(stack)
    for name, p in twin.named_parameters():
        assert torch.equal(p, models[name])
        assert not torch.equal(p, dict(stack.named_parameters())[name])
    assert torch.equal(stack.x, moved)
    # a copy is an ordinary stack
    assert twin.rows is not stack.rows and torch.equal(how(twin).x, twin.x)
    step(twin, fs.DSGD(twin.parameters(), lr=0.1, topology="ring"), x)
    assert torch.equal(stack.x, moved)


@each_copy
@pytest.mark.parametrize("reverse", [False, True])
def test_a_copy_with_its_optimizer_goes_on_alike(
    how: Callable[..., Any], reverse: bool, seed: int
) -> None:
    stack, optimizer, x = ahead(seed)
    pair = (optimizer, stack) if reverse else (stack, optimizer)
    copied = how(pair)
    twin, its = copied[::-1] if reverse else copied
    assert its.rows is twin.rows
    models = stack.state_dict()
    for name, value in twin.state_dict().items():
        assert torch.equal(value, models[name])
    for chosen, its_stack in ((optimizer, stack), (its, twin)):
        chosen.train()
        for _ in range(2):
            step(its_stack, chosen, x)
        chosen.eval()
    assert torch.equal(stack.x, twin.x)
