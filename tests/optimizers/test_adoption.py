"""Optimizers adopt an AgentStack's buffers, and SAM's second pass leaves normalization statistics alone."""

import contextlib
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle import AgentStack

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = {m.__name__: m for m in (fs.DSGD, fs.DSGDm, fs.QGM, fs.DSADDLe, fs.QSADDLe)}
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def network(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), *extra, nn.Tanh(), nn.Flatten(), nn.Linear(12, 5))


def closure_of(optimizer: Any, stack: AgentStack, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (stack(x) - 1).square().mean((1, 2)).sum()
        loss.backward()
        return loss

    return closure


def bowl(parameters: list[nn.Parameter]) -> torch.Tensor:
    return torch.stack([p.cosh().log().sum() for p in parameters]).sum()


def padding(stack: AgentStack) -> torch.Tensor:
    """Whether a column of the buffers belongs to no parameter."""
    free = torch.ones(stack.layout.stride, dtype=torch.bool)
    for offset, shape in zip(stack.layout.offsets, stack.layout.shapes, strict=True):
        free[offset : offset + shape.numel()] = False
    return free


@each
def test_padding_stays_zero_and_buffers_stay_in_place(method: type[Any], seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(), 5, init="independent", seed=seed)
    x, g, free = stack.x, stack.g, padding(stack)
    optimizer = method(stack.parameters(), lr=0.1, weight_decay=0.01, topology="ring")
    assert optimizer.rows.x is x and optimizer.rows.g is g
    for _ in range(3):
        before = x.clone()
        optimizer.step(closure_of(optimizer, stack, torch.randn(5, 6, 2, 4, 4)))
        assert stack.x is x and stack.g is g and not torch.equal(x, before)
        for rows in (x, g, *optimizer.flat_state.values()):
            assert free.any() and not rows[:, free].any()


@each
def test_statistics_move_in_the_first_pass_only(method: type[Any], seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(nn.BatchNorm2d(3)), 3)
    optimizer = method(stack.parameters(), lr=0.1, topology="ring")
    x = torch.randn(3, 6, 2, 4, 4)
    models = [stack.agent(i) for i in range(3)]
    for steps in range(1, 3):
        for model, batch in zip(models, x, strict=True):
            model(batch)
        optimizer.step(closure_of(optimizer, stack, x))
        assert stack.buffers["1.num_batches_tracked"].tolist() == [steps] * 3
        if steps == 1:
            for i, model in enumerate(models):
                for name, b in model.named_buffers():
                    assert (b - stack.buffers[name][i]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, momentum=None),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ],
    ids=repr,
)
def test_second_pass_of_ordinary_modules(norm: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    model = network(copy.deepcopy(norm))
    twin = copy.deepcopy(model)
    optimizer = fs.QSADDLe(model.parameters(), lr=0.1)
    x = torch.randn(6, 2, 4, 4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        quiet = fs.second_pass(model) if optimizer.perturbed else contextlib.nullcontext()
        with quiet:
            loss = model(x).square().mean()
        loss.backward()
        return loss

    twin(x)
    optimizer.step(closure)
    for b, expected in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(b, expected)
    with pytest.raises(KeyError), fs.second_pass(model):
        assert torch.equal(model(x), copy.deepcopy(model)(x))
        raise KeyError
    for b, expected in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(b, expected)
    model(x)
    assert any(not torch.equal(b, c) for b, c in zip(model.buffers(), twin.buffers(), strict=True))
    model.eval()
    with fs.second_pass(model):
        quiet = model(x)
    assert torch.equal(quiet, model(x))


@each
def test_groups_in_another_order(method: type[Any], seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(nn.GroupNorm(1, 3)), 3, init="independent", seed=seed)
    twin = copy.deepcopy(stack)
    x = torch.randn(3, 6, 2, 4, 4)
    outputs = stack(x)
    named = dict(stack.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if n.endswith("bias")], "weight_decay": 0.0},
        {"params": [p for n, p in named.items() if n.endswith("weight")]},
    ]
    optimizer = method(groups, lr=0.1, weight_decay=0.0, topology="ring")
    plain = method(twin.parameters(), lr=0.1, weight_decay=0.0, topology="ring")
    assert stack.x is optimizer.rows.x and torch.equal(stack(x), outputs)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, stack, x))
        plain.step(closure_of(plain, twin, x))
    for (name, p), q in zip(stack.named_parameters(), twin.parameters(), strict=True):
        assert (p - q).abs().max() < 1e-5, name
    for (_, p), g in zip(stack.named_parameters(), stack.named_gradients(), strict=True):
        assert p.grad is not None and p.grad.data_ptr() == g[1].data_ptr()


@each
def test_frozen_rest_is_left_alone(method: type[Any], seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(), 3, init="independent", seed=seed)
    twin = copy.deepcopy(stack)
    (_, *head), (_, *twin_head) = (list(s.parameters()) for s in (stack, twin))
    frozen, first = next(stack.parameters()), next(stack.parameters()).detach().clone()
    optimizer = method(head, lr=0.1, weight_decay=0.1, topology="ring")
    next(twin.parameters()).requires_grad_(False)
    other = method(twin_head, lr=0.1, weight_decay=0.1, topology="ring")
    assert optimizer.rows.x is stack.x
    x = torch.randn(3, 6, 2, 4, 4)
    for _ in range(2):
        optimizer.step(closure_of(optimizer, stack, x))
        other.step(closure_of(other, twin, x))
    assert torch.equal(frozen, first)
    for p, q in zip(stack.parameters(), twin.parameters(), strict=True):
        assert (p - q).abs().max() < 1e-6
    assert optimizer.bytes_sent == 2 * 3 * 2 * 4 * (stack.layout.dim - 54)


@each
def test_two_optimizers_share_a_stack(method: type[Any], seed: int) -> None:
    """Each zeroes, perturbs, restores and steps its own part, whoever came last."""
    torch.manual_seed(seed)
    stack = AgentStack(network(), 3, init="independent", seed=seed)
    free = [nn.Parameter(p.detach().clone()) for p in stack.parameters()]
    mine = list(stack.parameters())
    for params in (mine, free):
        pair = [method(part, lr=0.05, topology="ring") for part in (params[:1], params[1:])]
        for _ in range(3):
            for optimizer in pair:
                optimizer.zero_grad()
            bowl(params).backward()
            if isinstance(pair[0].gradient, fs.gradients.SAM):
                for optimizer in pair:
                    optimizer.perturb(zero_grad=True)
                pair[0].restore()
                pair[1].restore()
                for optimizer in pair:
                    optimizer.zero_grad()
                bowl(params).backward()
                for optimizer in pair:
                    optimizer.perturb(zero_grad=True)
                bowl(params).backward()
            for optimizer in pair:
                optimizer.step()
    for p, q in zip(mine, free, strict=True):
        assert torch.equal(p, q)


@each
@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copied_stack_is_adopted_too(method: type[Any], how: Callable, seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(nn.BatchNorm2d(3)), 3, init="independent", seed=seed)
    optimizer = method(stack.parameters(), lr=0.1, topology="ring")
    x = torch.randn(3, 6, 2, 4, 4)
    optimizer.step(closure_of(optimizer, stack, x))
    twins = how((stack, optimizer)), how((optimizer, stack))[::-1]
    optimizer.step(closure_of(optimizer, stack, x))
    for twin, its in twins:
        its.step(closure_of(its, twin, x))
        assert its.rows.x is twin.x and twin.x is not stack.x
        assert torch.equal(twin.x, stack.x)
        for name, b in twin.buffers.items():
            assert torch.equal(b, stack.buffers[name])
        assert torch.equal(twin.eval()(x), stack.eval()(x))
    alone = how(stack)
    assert method(alone.parameters(), topology="ring").rows.x is alone.x


def test_one_agent_needs_no_topology(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(), 1)
    twin = copy.deepcopy(stack)
    x = torch.randn(1, 6, 2, 4, 4)
    for s, topology in ((stack, None), (twin, "ring")):
        optimizer = fs.QSADDLe(s.parameters(), topology=topology)
        assert optimizer.rows.x is s.x
        optimizer.step(closure_of(optimizer, s, x))
    assert torch.equal(stack.x, twin.x)


@each
def test_copied_with_an_optimizer_of_some_parameters(method: type[Any], seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(nn.BatchNorm2d(3)), 3)
    optimizer = method(list(stack.parameters())[1:], lr=0.1, topology="ring")
    x = torch.randn(3, 6, 2, 4, 4)
    optimizer.step(closure_of(optimizer, stack, x))
    its, twin = copy.deepcopy((optimizer, stack))
    for chosen, model in ((optimizer, stack), (its, twin)):
        chosen.step(closure_of(chosen, model, x))
        assert chosen.rows is model.rows
    for p, q in zip(stack.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    for name, b in twin.buffers.items():
        assert torch.equal(b, stack.buffers[name])


@each
def test_a_later_optimizer_takes_parameters_over(method: type[Any], seed: int) -> None:
    """The earlier one goes on working on them, in the later one's buffers."""
    torch.manual_seed(seed)
    one, other = torch.randn(3, 5), torch.randn(3, 2, 7)
    results = []
    for apart in (False, True):
        a, b = nn.Parameter(one.clone()), nn.Parameter(other.clone())
        first = method([a], lr=0.1, topology="ring")
        both = None if apart else method([b, a], lr=0.1, topology="ring")
        for _ in range(3):

            def closure(first: Any = first, a: nn.Parameter = a) -> torch.Tensor:
                first.zero_grad()
                loss = a.cosh().log().sum()
                loss.backward()
                return loss

            first.step(closure)
        assert both is None or first.rows is both.rows
        results.append((a.detach(), b.detach()))
    assert all(map(torch.equal, *results))
