"""What a stack shows as gradients is what backward left, whatever happened to `.grad` before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs


def stack_of(seed: int) -> fs.AgentStack:
    torch.manual_seed(seed)
    return fs.AgentStack(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), 3, "independent"
    )


def backward(stack: fs.AgentStack) -> None:
    stack(torch.randn(3, 5, 3)).square().sum().backward()


def clear(stack: fs.AgentStack) -> None:
    for p in stack.parameters():
        p.grad = None


def zero_in_place(stack: fs.AgentStack) -> None:
    for p in stack.parameters():
        assert p.grad is not None
        p.grad.zero_()


def replace(stack: fs.AgentStack) -> None:
    for p in stack.parameters():
        p.grad = torch.zeros_like(p)


@pytest.mark.parametrize("forget", [clear, zero_in_place, replace])
@pytest.mark.parametrize("read", ["g", "named_gradients"])
def test_gradients_are_those_of_the_last_backward(
    forget: Callable[[Any], None], read: str, seed: int
) -> None:
    stack = stack_of(seed)
    backward(stack)
    assert stack.g.any()
    forget(stack)
    backward(stack)
    expected = {name: p.grad.clone() for name, p in stack.named_parameters()}
    if read == "g":
        stack.g.mul_(2)
        expected = {name: 2 * grad for name, grad in expected.items()}
    assert all(torch.equal(expected[name], part) for name, part in stack.named_gradients())
    # and are one again: what is written there is what an optimizer steps by
    assert all(torch.equal(p.grad, expected[name]) for name, p in stack.named_parameters())


def test_gradients_without_backward_are_zero(seed: int) -> None:
    stack = stack_of(seed)
    backward(stack)
    clear(stack)
    assert not stack.g.any() and all(p.grad is not None for p in stack.parameters())


def test_an_assigned_gradient_is_shown(seed: int) -> None:
    stack = stack_of(seed)
    backward(stack)
    (name, p), *others = stack.named_parameters()
    before = {n: q.grad.clone() for n, q in others}
    p.grad = given = torch.randn_like(p)
    found = dict(stack.named_gradients())
    assert torch.equal(found[name], given)
    assert all(torch.equal(found[n], grad) for n, grad in before.items())


def test_a_frozen_parameter_leaves_no_gradient_behind(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.Linear(3, 2), 4)
    optimizer = fs.DSGD(stack.parameters(), lr=0.1, topology="ring")
    for _ in range(2):
        stack(torch.randn(4, 5, 3)).square().sum().backward()
        assert all(bool(g.any()) for _, g in stack.named_gradients())
        optimizer.step()
        optimizer.zero_grad()
    stack(torch.randn(4, 5, 3)).square().sum().backward()
    bias = dict(stack.named_parameters())["bias"]
    bias.requires_grad_(False)
    optimizer.step()
    gradients = dict(stack.named_gradients())
    assert not gradients["bias"].any() and bool(gradients["weight"].any())
