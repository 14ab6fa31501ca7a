"""With one agent the optimizers are SAM and SGD on an ordinary module: against plain versions written here."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 30
# smooth, so that float32 and float64 never take different sides of a kink
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1),
        nn.GroupNorm(1, 5),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(5, 7, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(28, 10),
    ),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 33), nn.SiLU(), nn.Linear(33, 10)),
}


@pytest.fixture
def batches(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A noisy prototype for each of ten classes: something a network can learn."""
    torch.manual_seed(seed)
    prototypes = torch.randn(10, 1, 8, 8)
    labels = torch.randint(0, 10, (STEPS, 32))
    return [(prototypes[y] + torch.randn(32, 1, 8, 8), y) for y in labels]


def sam_step(
    model: nn.Module, sgd: torch.optim.SGD, rho: float, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Foret et al. 2020 (arXiv:2010.01412), algorithm 1: ascend, take the gradient there, go back, step."""
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p += rho * g / (norm + 1e-12)
    ascended = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    with torch.no_grad():
        for p, value, g in zip(parameters, before, ascended, strict=True):
            p.copy_(value)
            p.grad = g
    sgd.step()
    return loss


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("network", NETWORKS)
def test_dsaddle_is_sam(
    network: str,
    weight_decay: float,
    backend: str,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    model = NETWORKS[network]()
    exact = copy.deepcopy(model).double()
    start = [p.clone() for p in exact.parameters()]
    optimizer = fs.DSADDLe(
        model.parameters(), lr=0.1, rho=0.05, weight_decay=weight_decay, backend=backend
    )
    sgd = torch.optim.SGD(exact.parameters(), lr=0.1, weight_decay=weight_decay)
    losses = []
    for step, (x, y) in enumerate(batches):
        for group in (*optimizer.param_groups, *sgd.param_groups):
            group["lr"] = 0.1 if step < STEPS // 2 else 0.02

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        loss = optimizer.step(closure).item()
        expected = sam_step(exact, sgd, 0.05, x.double(), y).item()
        assert abs(loss - expected) <= 1e-4
        losses.append(loss)
    assert sum(losses[-10:]) < sum(losses[:10])
    moved = 0.0
    for p, q, began in zip(model.parameters(), exact.parameters(), start, strict=True):
        assert (p.double() - q).abs().max() <= 1e-4
        moved = max(moved, float((q - began).detach().abs().max()))
    assert moved > 1e-2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"momentum": 0.9}, {"momentum": 0.9}),
        ({"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
        ({"momentum": 0.7, "maximize": True}, {"momentum": 0.7, "maximize": True}),
        ({"rho": 0.0}, {}),
    ],
    ids=["sgd", "heavy-ball", "nesterov", "maximize", "saddle-without-radius"],
)
def test_is_torch_sgd(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    model = NETWORKS["mlp"]()
    twin = copy.deepcopy(model)
    method = fs.DSADDLe if "rho" in ours else fs.DSGDm if "momentum" in ours else fs.DSGD
    optimizer = method(model.parameters(), lr=0.03, weight_decay=1e-2, **ours)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.03, weight_decay=1e-2, **theirs)
    sign = -1.0 if ours.get("maximize") else 1.0
    for x, y in batches:
        for network, chosen in ((model, optimizer), (twin, sgd)):

            def closure(
                network: nn.Module = network,
                chosen: torch.optim.Optimizer = chosen,
                x: torch.Tensor = x,
                y: torch.Tensor = y,
            ) -> torch.Tensor:
                chosen.zero_grad()
                loss = sign * F.cross_entropy(network(x), y)
                loss.backward()
                return loss

            chosen.step(closure)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p - q).abs().max() <= 2e-6


@pytest.mark.parametrize("method", [fs.DSGDm, fs.DSADDLe])
def test_gradient_scaler(
    method: type[Any], batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Scaling by a power of two changes no bit; a step with infinite gradients is left out by the scaler."""
    model = NETWORKS["mlp"]()
    twin = copy.deepcopy(model)
    optimizer, plain = (method(m.parameters(), lr=0.1) for m in (model, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for number, (x, y) in enumerate(batches[:4]):
        spoiled = number == 2
        for chosen, network in ((optimizer, model), (plain, twin)):
            chosen.zero_grad()
            if chosen is plain and not spoiled:
                F.cross_entropy(network(x), y).backward()
            elif chosen is optimizer:
                loss = F.cross_entropy(network(x), y) * (torch.inf if spoiled else 1.0)
                scaler.scale(loss).backward()
                scaler.unscale_(chosen)
            if method is fs.DSADDLe and not spoiled:
                chosen.perturb(zero_grad=True)
                F.cross_entropy(network(x), y).backward()
        scaler.step(optimizer)
        scaler.update()
        if not spoiled:
            plain.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p, q)
