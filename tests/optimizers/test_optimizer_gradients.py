"""Parameters and gradients as views of flat buffers: whatever users do with them, the step is the same."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.optimizer.shell import Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = {"dsgdm": fs.DSGDm, "qgm": fs.QGM, "qsaddle": fs.QSADDLe}
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)
    )


def train(
    model: nn.Module,
    optimizer: Any,
    seed: int,
    before: Callable[[], Any] = lambda: None,
    after: Callable[[], Any] = lambda: None,
    **backward: Any,
) -> list[torch.Tensor]:
    """Three steps, with something done before each backward pass (instead of zero_grad) and after it."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(3):
        x = torch.randn(4, 2, 4, 4, generator=draw)

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            before()
            loss = model(x).square().mean()
            loss.backward(**backward)
            after()
            return loss

        optimizer.step(closure)
    return [p.detach().clone() for p in model.parameters()]


def gradient(p: torch.Tensor) -> torch.Tensor:
    assert p.grad is not None
    return p.grad


def is_a_view(p: torch.Tensor, rows: torch.Tensor) -> bool:
    return rows.data_ptr() <= p.data_ptr() < rows.data_ptr() + rows.nbytes


@each
@pytest.mark.parametrize(
    "way", ["to none", "to zero", "by the module", "new", "doubled", "not dense", "with a graph"]
)
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_every_way_to_reset_and_assign_gradients(method: type[Any], way: str, seed: int) -> None:
    model = network(seed)
    twin = copy.deepcopy(model)
    twin_optimizer = method(twin.parameters(), lr=0.1, weight_decay=0.01)
    expected = train(twin, twin_optimizer, seed, twin_optimizer.zero_grad)
    optimizer: Optimizer = method(model.parameters(), lr=0.1, weight_decay=0.01)
    parameters = list(model.parameters())
    for p in parameters:
        assert p.grad is not None and not p.grad.any() and is_a_view(p.grad, optimizer.rows.g)

    def replace() -> None:
        for p in parameters:
            if way == "new":
                p.grad = gradient(p).clone()
            elif way == "doubled":
                p.grad = (gradient(p) + gradient(p)) / 2
            elif p.dim() == 4:
                p.grad = gradient(p).to(memory_format=torch.channels_last)

    def none() -> None:
        for p in parameters:
            p.grad = None

    reset = {
        "to none": lambda: optimizer.zero_grad(set_to_none=True),
        "to zero": lambda: optimizer.zero_grad(set_to_none=False),
        "by the module": model.zero_grad,
    }.get(way, none)
    result = train(
        model,
        optimizer,
        seed,
        reset,
        replace if way in ("new", "doubled", "not dense") else lambda: None,
        **({"create_graph": True} if way == "with a graph" else {}),
    )
    assert all(torch.equal(p, q) for p, q in zip(result, expected, strict=True))
    for p in parameters:
        assert is_a_view(p, optimizer.rows.x)
        assert p.grad is not None and is_a_view(p.grad, optimizer.rows.g)


@each
@pytest.mark.parametrize("how", ["never used", "none"])
def test_no_gradient_is_a_zero_gradient(method: type[Any], how: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    used = nn.Parameter(torch.randn(3, 4, generator=draw))
    left = nn.Parameter(torch.randn(3, 2, generator=draw))
    start = left.detach().double()
    optimizer = method([used, left], lr=0.1, weight_decay=0.5, momentum=0.0, topology="ring")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        if how == "none":
            gradient(left).fill_(1.0)
            left.grad = None
        loss.backward()
        return loss

    W = torch.full((3, 3), 1 / 3).double()
    optimizer.step(closure)
    assert (left - W @ (0.95 * start)).abs().max() < 1e-6


def test_gradients_accumulate(seed: int) -> None:
    p = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
    start = p.detach().clone()
    alone = fs.topology.from_matrix(torch.eye(3), allow_disconnected=True)
    optimizer = fs.DSGD([p], lr=0.25, topology=alone)
    for _ in range(3):
        p.sum().backward()
    optimizer.step()
    assert torch.equal(p, start - 0.75)


def test_sparse_gradients_are_refused(seed: int) -> None:
    torch.manual_seed(seed)
    p, q = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(3))
    optimizer = fs.DSGDm([q, p], lr=0.1)
    before = [p.detach().clone(), q.detach().clone()]
    p.grad = torch.randn(5, 4).to_sparse()
    with pytest.raises(ValueError, match=r"gradients must be dense, got torch\.sparse"):
        optimizer.step()
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])


@each
@pytest.mark.parametrize("how", ["data", "channels last", "state dict", "vector"])
def test_moved_parameters_are_followed(method: type[Any], how: str, seed: int) -> None:
    model = network(seed)
    twin = copy.deepcopy(model)
    expected_by = method(twin.parameters(), lr=0.1)
    expected = train(twin, expected_by, seed, expected_by.zero_grad)
    optimizer: Optimizer = method(model.parameters(), lr=0.1)

    layout = torch.channels_last

    def move() -> None:
        optimizer.zero_grad()
        if how == "data":
            for p in model.parameters():
                p.data = p.data.clone()
        elif how == "channels last":
            for p in model.parameters():
                p.data = p.data.to(memory_format=layout) if p.dim() == 4 else p.data.clone()
        elif how == "state dict":
            model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
        else:
            vector = nn.utils.parameters_to_vector(model.parameters()).detach()
            nn.utils.vector_to_parameters(vector, model.parameters())

    result = train(model, optimizer, seed, move)
    tolerance = 1e-6 if how == "channels last" else 0.0
    for p, q in zip(result, expected, strict=True):
        assert (p - q).abs().max() <= tolerance


@each
@pytest.mark.parametrize("how", ["double", "shape"])
def test_parameters_that_cannot_be_followed_are_refused(
    method: type[Any], how: str, seed: int
) -> None:
    model = network(seed)
    optimizer = method(model.parameters(), lr=0.1)
    weight = next(model.parameters())
    value = weight.detach().clone()
    moves = {"double": value.double(), "shape": value[:, :1]}
    weight.grad = None
    weight.data = moves[how].clone()
    before = [p.detach().clone() for p in model.parameters()]
    rules = {"double": "float32", "shape": "keep their shape"}
    with pytest.raises(ValueError, match=rules[how]):
        optimizer.step() if method is not fs.QSADDLe else optimizer.perturb()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)


def test_replaced_parameters_need_a_new_optimizer(seed: int) -> None:
    """As everywhere in torch: `load_state_dict(assign=True)` makes other Parameter objects."""
    model = network(seed)
    old = fs.DSGDm(model.parameters(), lr=0.1, weight_decay=0.1)
    fresh = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    model.load_state_dict(fresh, assign=True)
    train(model, old, seed, old.zero_grad)
    assert all(torch.equal(v, fresh[k]) for k, v in model.state_dict().items())
    twin = copy.deepcopy(model)
    new, expected = (
        fs.DSGDm(model.parameters(), lr=0.1),
        torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9),
    )
    model.zero_grad()
    for p, q in zip(
        train(model, new, seed, new.zero_grad),
        train(twin, expected, seed, expected.zero_grad),
        strict=True,
    ):
        assert (p - q).abs().max() < 1e-6


def test_tied_weights_and_two_modules(seed: int) -> None:
    torch.manual_seed(seed)
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    both = nn.Sequential(one, nn.Tanh(), two)
    twin = copy.deepcopy(both)
    assert twin[0].weight is twin[2].weight
    parameters = [*one.parameters(), two.bias]
    optimizer = fs.DSGDm(parameters, lr=0.1)
    expected = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        x = torch.randn(5, 4)
        for model, chosen in ((both, optimizer), (twin, expected)):
            chosen.zero_grad()
            model(x).square().mean().backward()
            chosen.step()
    for p, q in zip(both.parameters(), twin.parameters(), strict=True):
        assert (p - q).abs().max() < 1e-6
    assert one.weight is two.weight and is_a_view(one.weight, optimizer.rows.x)


def test_default_dtype_and_whole_numbers_do_not_matter(seed: int) -> None:
    values = torch.randn(70, 4, generator=torch.Generator().manual_seed(seed))
    results = []
    for dtype, one, none in ((torch.float32, 1.0, 0.0), (torch.float64, 1, 0)):
        torch.set_default_dtype(dtype)
        try:
            p = nn.Parameter(values.clone())
            optimizer = fs.QSADDLe(
                [p], lr=one, weight_decay=none, momentum=none, rho=one, topology="fully_connected"
            )

            def closure(optimizer: fs.QSADDLe = optimizer, p: nn.Parameter = p) -> torch.Tensor:
                optimizer.zero_grad()
                loss = 0.1 * p.square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)
            results.append(p.detach())
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*results)


def test_no_warning_about_strided_gradients(seed: int) -> None:
    """In a process of its own: torch warns once and no more."""
    script = f"""
import torch, fastsaddle as fs
torch.manual_seed({seed})
p = torch.nn.Parameter(torch.randn(3, 4, 5)), torch.nn.Parameter(torch.randn(3, 7))
stack = fs.AgentStack(torch.nn.Linear(4, 2), 3)
optimizers = fs.QGM(p, topology="ring"), fs.QGM(stack.parameters(), topology="ring")
for _ in range(2):
    for optimizer in optimizers:
        optimizer.zero_grad()
    for _ in range(2):
        (p[0].square().sum() + p[1].square().sum()).backward()
        stack(torch.randn(3, 6, 4)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
"""
    command = [sys.executable, "-W", "error:grad and param:UserWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "layout contract" not in done.stderr, done.stderr
