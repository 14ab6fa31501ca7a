"""Buffers that forward assigns (`self.n = self.n + 1`) are kept like those that it writes into, in all engines."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle import sharpness
from fastsaddle.sim.gradient_engine import GradientEngine

pytestmark = pytest.mark.usefixtures("one_thread")


class Counting(nn.Module):
    """Divides by the number of its calls, and keeps a running mean of what it saw."""

    def __init__(self, in_place: bool, mapped: bool = True, features: int = 1) -> None:
        super().__init__()
        self.l = nn.Linear(features, features)
        self.cell = None if mapped else nn.LSTM(features, features, batch_first=True)
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(features, dtype=torch.float64))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        mean = x.double().mean(0)
        if self.in_place:
            self.n += 1
            self.seen.mul_(0.5).add_(0.5 * mean)
        else:
            # the values before are needed by the backward pass
            x = x * (1 + self.seen.float())
            self.n, self.seen = self.n + 1, self.seen.lerp(mean, 0.5)
        x = x if self.cell is None else self.cell(x[:, None])[0][:, 0]
        return self.l(x) / self.n


@pytest.mark.parametrize("in_place", [False, True])
def test_two_calls_count_two(in_place: bool) -> None:
    stack = fs.AgentStack(Counting(in_place), 2)
    x = torch.zeros(2, 1, 1)
    first, second = stack(x), stack(x)
    assert stack.buffers["n"].tolist() == [2, 2]
    assert (second / first).flatten().tolist() == [0.5, 0.5]
    with stack.frozen_buffers():
        assert torch.allclose(stack(x) / first, torch.full_like(x, 1 / 3))
    assert stack.buffers["n"].tolist() == [2, 2]
    # in evaluation a module of its own counts as well
    with torch.no_grad():
        stack.eval()(x)
    assert stack.buffers["n"].tolist() == [3, 3]


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.filterwarnings("ignore:torch.vmap cannot map cell:RuntimeWarning")
def test_a_stack_is_its_modules(in_place: bool, mapped: bool, seed: int) -> None:
    torch.manual_seed(seed)
    module = Counting(in_place, mapped, 3)
    stack = fs.AgentStack(module, 3, init="independent", seed=seed)
    models = [stack.agent(i) for i in range(3)]
    addresses = {name: b.data_ptr() for name, b in stack.buffers.items()}
    for step in range(4):
        x = torch.randn(3, 5, 3)
        stack.train(step != 2)
        stack.zero_grad()
        found = stack(x)
        found.square().sum().backward()
        for i, model in enumerate(models):
            model.train(step != 2).zero_grad()
            expected = model(x[i])
            expected.square().sum().backward()
            assert torch.allclose(found[i], expected, atol=1e-6)
            for name, b in model.named_buffers():
                assert torch.allclose(stack.buffers[name][i], b, rtol=1e-6), name
            for name, p in stack.named_parameters():
                assert torch.allclose(p.grad[i], model.get_parameter(name).grad, atol=1e-5), name
    # a captured step, or a checkpoint's list of tensors, goes on with the same memory
    assert addresses == {name: b.data_ptr() for name, b in stack.buffers.items()}


ENGINES = ("vmap", "unfold", "loop", "threads")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("chunk", [None, 3])
def test_engines_agree(in_place: bool, chunk: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    module = Counting(in_place, features=3)
    xs, ys = torch.randn(3, 8, 5, 3), torch.randint(3, (3, 8, 5))
    reference: list[Tensor] | None = None
    for name in ENGINES:
        stack = fs.AgentStack(module, 8)
        engine = GradientEngine(stack, F.cross_entropy, name, chunk)
        losses = []
        for x, y in zip(xs, ys, strict=True):
            losses.append(engine.gradients(x, y))
            # neither evaluation nor a second pass moves buffers
            engine.outputs(x, torch.zeros(8, dtype=torch.int64))
            stack.rows.second_pass = True
            engine.gradients(x, y)
            stack.rows.second_pass = False
        assert stack.buffers["n"].tolist() == [3] * 8
        found = [torch.stack(losses), stack.g.clone(), *stack.buffers.values()]
        reference = found if reference is None else reference
        for one, other in zip(found, reference, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("in_place", [False, True])
def test_agents_side_by_side_are_those_in_turn(in_place: bool, seed: int) -> None:
    torch.manual_seed(seed)
    module = Counting(in_place, features=3)
    xs, ys = torch.randn(4, 8, 5, 3), torch.randint(3, (4, 8, 5))
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        stack = fs.AgentStack(module, 8)
        engine = GradientEngine(stack, F.cross_entropy, "threads")
        losses = [engine.gradients(x, y) for x, y in zip(xs, ys, strict=True)]
        found.append([*losses, stack.g.clone(), *stack.buffers.values()])
    assert all(map(torch.allclose, *found))


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_keep_modes_of_their_own(engine: str, seed: int) -> None:
    """A normalization in evaluation inside a network in training."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    x, y = torch.randn(8, 5, 4), torch.randint(3, (8, 5))
    stack = fs.AgentStack(net, 8)
    gradients = GradientEngine(stack, F.cross_entropy, engine)
    for layer in (1, 2):
        stack.template[layer].eval()
    assert stack.training
    losses = gradients.gradients(x, y)
    assert not stack.buffers["1.num_batches_tracked"].any()
    expected = [F.cross_entropy(stack.agent(i)(x[i]), y[i]) for i in range(8)]
    assert torch.allclose(losses, torch.stack(expected), atol=1e-6)
    stack.template[1].train()
    gradients.gradients(x, y)
    assert stack.buffers["1.num_batches_tracked"].tolist() == [1] * 8


@pytest.mark.parametrize("in_place", [False, True])
def test_second_passes_of_sam_leave_them(in_place: bool, seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Counting(in_place), 2)
    optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, topology="ring")
    x = torch.randn(2, 4, 1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = stack(x).square().mean()
        loss.backward()
        return loss

    for step in range(1, 4):
        optimizer.step(closure)
        assert stack.buffers["n"].tolist() == [step] * 2


class Swapping(nn.Module):
    """Two buffers that change places, and one that only the first agents' data change."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(1, 1)
        self.register_buffer("a", torch.tensor(1.0))
        self.register_buffer("b", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        self.a, self.b = self.b, self.a
        return self.l(x) * self.a


def test_buffers_that_change_places() -> None:
    for engine in (None, *ENGINES):
        stack = fs.AgentStack(Swapping(), 2)
        x, y = torch.ones(2, 1, 1), torch.ones(2, 1, 1)
        gradients = None if engine is None else GradientEngine(stack, F.mse_loss, engine)
        for a, b in ((2, 1), (1, 2), (2, 1)):
            stack(x) if gradients is None else gradients.gradients(x, y)
            assert stack.buffers["a"].tolist() == [a, a] and stack.buffers["b"].tolist() == [b, b]


class Odd(nn.Module):
    """Assigns to its buffer what it is told."""

    def __init__(self, change: Callable[["Odd"], Any], start: Tensor | None) -> None:
        super().__init__()
        self.l = nn.Linear(1, 1)
        self.register_buffer("n", start)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        self.change(self)
        return self.l(x)


def assign(value: Any) -> Callable[[Odd], None]:
    return lambda module: setattr(module, "n", value(module))


CHANGES: dict[str, tuple[Callable[[Odd], Any], Tensor | None, str]] = {
    "dtype": (
        assign(lambda m: m.n / 2),
        torch.zeros((), dtype=torch.int64),
        r"forward assigns \(\) float32 on cpu to n, which was \(\) int64 on cpu",
    ),
    "shape": (
        assign(lambda m: torch.cat([m.n, m.n])),
        torch.zeros(2),
        r"forward assigns \(4,\) float32 on cpu to n, which was \(2,\) float32 on cpu",
    ),
    "none": (
        assign(lambda m: None),
        torch.zeros(2),
        r"forward assigns None to n, which was \(2,\)",
    ),
    "made": (
        assign(lambda m: torch.zeros(2)),
        None,
        "buffers must be registered with a tensor, forward makes n, which had none",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("way", [None, *ENGINES])
def test_what_cannot_be_kept_is_refused_by_name(name: str, way: str | None, seed: int) -> None:
    change, start, rule = CHANGES[name]
    torch.manual_seed(seed)
    stack = fs.AgentStack(Odd(change, start), 2)
    x = torch.randn(2, 3, 1)
    before = {n: b.clone() for n, b in stack.buffers.items()}
    for mode in (True, False, True):
        stack.train(mode)
        with pytest.raises(ValueError, match=rule):
            stack(x) if way is None else GradientEngine(stack, F.mse_loss, way).gradients(x, x)
    assert all(torch.equal(before[n], b) for n, b in stack.buffers.items())
    assert {n for n, _ in stack.agent(0).named_buffers()} == set(before)
    with pytest.raises(ValueError, match=rule):
        sharpness.mean_loss(stack, F.mse_loss, x[0], x[0])


def test_parameters_that_forward_assigns_are_refused() -> None:
    class Assigning(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight = nn.Parameter(self.weight * 2)
            return super().forward(x)

    with pytest.raises(ValueError, match="must not assign parameters, it does so with weight"):
        fs.AgentStack(Assigning(1, 1), 2)(torch.ones(2, 1, 1))


def test_what_forward_keeps_in_attributes_stays_out_of_copies(seed: int) -> None:
    class Auxiliary(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.auxiliary = super().forward(x).mean()
            return super().forward(x)

    torch.manual_seed(seed)
    stack = fs.AgentStack(Auxiliary(2, 2), 3, init="independent", seed=seed)
    x = torch.randn(3, 4, 2)
    found = stack(x)
    sharpness.sam_sharpness(stack, F.mse_loss, x[0], x[0])
    GradientEngine(stack, F.mse_loss, "vmap").gradients(x, x)
    assert not hasattr(stack.agent(1), "auxiliary")
    assert torch.allclose(stack.agent(1)(x[1]), found[1], atol=1e-6)
    assert torch.equal(copy.deepcopy(stack)(x), found)
    assert stack.consensus()(x[0]).shape == (4, 2)
