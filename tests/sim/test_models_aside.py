"""SAM's second pass at models that are written aside: the bits of the way through the parameters, and what ends it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.gradients.base import AtRows
from fastsaddle.kernels.sam_perturb import sam_perturb
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.engine import Engine
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run.simulation import Simulation
from tests.sim.step_cases import options_of, take

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS, STEPS = 4, 4
NETWORKS = {
    "perceptron": ("mlp:7", "batched"),
    "mapped": ("mlp:7", "vmap"),
    "parts": ("mlp:7", "vmap"),
    "lanes": ("cnn5", "lanes"),
}
METHODS = {
    "qsaddle": {},
    "dsaddle": {"adaptive": True},
    "qsaddle, looksam": {"sam": "looksam:2"},
    "qsaddle, momentum": {"sam": "momentum"},
    "d2": {"gradient": "sam"},
    "qsaddle, decay": {"weight_decay": 0.01, "norm_decay": 0.0, "nesterov": True},
}


def run(options: dict[str, Any], reads_rows: bool, seen: list[bool]) -> Simulation:
    """A simulation after some steps; `seen` gets whether each perturbation left the parameters alone."""
    made = Simulation(TrainConfig(**options))
    assert made.engine.reads_rows
    made.engine.reads_rows = reads_rows
    perturb = made.optimizer.gradient._perturb

    def noted(*args: Any, aside: bool = False, **kwargs: Any) -> None:
        seen.append(aside)
        perturb(*args, aside=aside, **kwargs)

    made.optimizer.gradient._perturb = noted
    take(made, 0, STEPS)
    return made


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_bits_are_those_of_perturbed_parameters(
    name: str, network: str, tmp_path: Path, seed: int
) -> None:
    model, engine = NETWORKS[network]
    options = {
        **options_of(tmp_path, seed, "cpu"),
        **{"algorithm": name.split(",")[0], "agents": AGENTS, "model": model, "engine": engine},
        **({"chunk": 3} if network == "parts" else {}),
        **METHODS[name],
    }
    seen: dict[bool, list[bool]] = {True: [], False: []}
    aside, through = (run(options, reads, seen[reads]) for reads in (True, False))
    assert len(seen[True]) >= STEPS // 2 and all(seen[True]) and not any(seen[False])
    for key, tensor in through.tensors().items():
        assert torch.equal(aside.tensors()[key], tensor), key
    rows = aside.optimizer.rows
    assert rows.at is rows.x and not aside.optimizer.perturbed


class ByParameters(Engine):
    """An engine of somebody's own, which calls the stack."""

    def gradients(self, inputs: Tensor, targets: Any, loss: Any, features: str | None) -> Any:
        self.stack.zero_grad()
        found = torch.stack(
            [loss(out, t) for out, t in zip(self.stack(inputs), targets, strict=True)]
        )
        found.sum().backward()
        return found.detach()


def stacked(seed: int) -> tuple[fs.AgentStack, Tensor, Tensor]:
    torch.manual_seed(seed % 2**31)
    stack = fs.AgentStack(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), AGENTS)
    return stack, torch.randn(AGENTS, 8, 5), torch.randint(0, 3, (AGENTS, 8))


def test_an_engine_that_reads_parameters_finds_the_models_there(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    for reads in (False, True):
        stack, inputs, targets = stacked(seed)
        engine = GradientEngine(stack, F.cross_entropy, "vmap")
        if not reads:
            engine._runs, engine._kind = ByParameters(stack), ByParameters
            engine.reads_rows = False
        optimizer = fs.QSADDLe(stack.parameters(), topology="ring", rho=0.3)
        for _ in range(STEPS):
            optimizer.step(AtRows(lambda e=engine, x=inputs, t=targets: e.gradients(x, t).mean()))
        models.append(stack.x.clone())
    assert torch.allclose(*models, rtol=0, atol=1e-6)
    assert not torch.allclose(models[0], fresh_models(seed), rtol=0, atol=1e-2)


def fresh_models(seed: int) -> Tensor:
    return stacked(seed)[0].x


@pytest.mark.parametrize("failing", [1, 2])
def test_a_closure_that_raises_leaves_all_as_it_was(failing: int, seed: int) -> None:
    stack, inputs, targets = stacked(seed)
    engine = GradientEngine(stack, F.cross_entropy)
    optimizer = fs.QSADDLe(stack.parameters(), topology="ring")
    before, calls = stack.x.clone(), []

    def closure() -> Tensor:
        calls.append(optimizer.rows.at is optimizer.rows.x)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return engine.gradients(inputs, targets).mean()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(AtRows(closure))
    assert calls == [True, False][:failing]
    assert torch.equal(stack.x, before) and optimizer.rows.at is optimizer.rows.x
    assert not optimizer.perturbed
    optimizer.step(AtRows(closure))
    assert not torch.equal(stack.x, before)


@pytest.mark.parametrize("spoiled", [False, True])
def test_running_statistics_move_again_after_a_second_pass_that_failed(
    spoiled: bool, seed: int
) -> None:
    torch.manual_seed(seed % 2**31)
    stack = fs.AgentStack(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh()), AGENTS)
    inputs, targets = torch.randn(AGENTS, 8, 5), torch.randint(0, 6, (AGENTS, 8))
    engine = GradientEngine(stack, F.cross_entropy, "vmap")
    optimizer = fs.QSADDLe(stack.parameters(), topology="ring")

    def closure() -> Tensor:
        is_second = optimizer.rows.at is not optimizer.rows.x
        if is_second and not spoiled:
            raise KeyboardInterrupt
        return engine.gradients(inputs * (torch.nan if is_second else 1), targets).mean()

    with pytest.raises((KeyboardInterrupt, fs.NonFiniteGradientError)):
        optimizer.step(AtRows(closure))
    before = {name: buffer.clone() for name, buffer in stack.buffers.items()}
    engine.gradients(inputs, targets)
    assert not any(torch.equal(before[name], buffer) for name, buffer in stack.buffers.items())


def test_parameters_that_stand_still_are_part_of_the_models(seed: int) -> None:
    models = []
    for kind in (AtRows, lambda closure: closure):
        stack, inputs, targets = stacked(seed)
        next(stack.parameters()).requires_grad_(False)
        engine = GradientEngine(stack, F.cross_entropy, "vmap")
        optimizer = fs.QSADDLe(stack.parameters(), topology="ring", rho=0.3)
        for _ in range(STEPS):
            optimizer.step(kind(lambda e=engine, x=inputs, t=targets: e.gradients(x, t).mean()))
        models.append(stack.x.clone())
    assert torch.equal(*models)


def test_what_is_written_aside_is_what_would_be_written_to_x(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # more than stays in a cache, and less
    for agents, columns in ((3, 1056), (5, 2**20)):
        x, g = (torch.randn(agents, columns, generator=generator) for _ in range(2))
        norm, rho = torch.rand(agents, generator=generator) + 0.5, torch.tensor(0.1)
        norm[-1] = torch.inf
        moved, saved, aside = x.clone(), torch.empty_like(x), torch.empty_like(x)
        sam_perturb(moved, g, saved, rho, norm, True, False)
        sam_perturb(x, g, aside, rho, norm, True, False, True)
        assert torch.equal(x, saved) and torch.equal(aside, moved)
