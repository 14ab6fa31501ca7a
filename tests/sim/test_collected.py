"""Squares that engines add up: handed on where a norm can be made of them, and nowhere else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.gradients.base import AtRows
from fastsaddle.optimizer import shell
from fastsaddle.sim.gradient_engine import GradientEngine

AGENTS = 4
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": lambda: nn.Sequential(nn.Linear(5, 3000), nn.ReLU(), nn.Linear(3000, 3)),
    "mapped": lambda: nn.Sequential(nn.Linear(5, 3000), nn.Tanh(), nn.Linear(3000, 3)),
}
ENGINES = {"perceptron": "batched", "mapped": "vmap"}


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How norms are taken, in order."""
    taken: list[str] = []

    def noted(name: str) -> Callable[..., None]:
        op = getattr(shell, name)

        def run(*args: Any) -> None:
            taken.append(name)
            op(*args)

        return run

    for name in ("agent_norm", "norm_of_squares"):
        monkeypatch.setattr(shell, name, noted(name))
    return taken


class Setting:
    """A stack with a batch, an engine and the closure that calls it."""

    def __init__(self, network: str, seed: int, chunk: int | None = None) -> None:
        torch.manual_seed(seed % 2**31)
        self.stack = fs.AgentStack(NETWORKS[network](), AGENTS)
        self.inputs, self.targets = torch.randn(AGENTS, 8, 5), torch.randint(0, 3, (AGENTS, 8))
        self.engine = GradientEngine(self.stack, F.cross_entropy, ENGINES[network], chunk)

    def closure(self) -> Tensor:
        return self.engine.gradients(self.inputs, self.targets).mean()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", [fs.QSADDLe, fs.QGM])
@pytest.mark.parametrize("chunk", [None, 3])
def test_steps_have_the_bits_of_those_that_read_gradients_again(
    network: str, method: Any, chunk: int | None, seed: int, ways: list[str]
) -> None:
    models = []
    for kind in (AtRows, lambda closure: closure):
        setting = Setting(network, seed, chunk)
        optimizer = method(setting.stack.parameters(), topology="ring")
        for _ in range(3):
            optimizer.step(kind(setting.closure))
        models.append(setting.stack.x.clone())
    assert torch.equal(*models)
    passes = 2 if method is fs.QSADDLe else 1
    assert ways == 3 * passes * ["norm_of_squares"] + 3 * passes * ["agent_norm"]


class Doubled(fs.gradients.Gradient):
    """Changes gradients after the closure has left them."""

    def take(self, optimizer: Any, closure: Any, passes: int | None = None) -> Any:
        loss = optimizer.evaluate(closure)
        with torch.no_grad():
            next(iter(optimizer.parameters)).grad.mul_(2)
        return loss


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_that_were_changed_are_read_again(
    network: str, seed: int, ways: list[str]
) -> None:
    setting = Setting(network, seed)
    optimizer = fs.Optimizer(
        setting.stack.parameters(), gradient=Doubled(), communicator=fs.comm.Gossip("ring")
    )
    optimizer.step(AtRows(setting.closure))
    assert ways == ["agent_norm"]


@pytest.mark.parametrize("network", NETWORKS)
def test_squares_of_a_part_of_the_parameters_are_not_wanted(
    network: str, seed: int, ways: list[str]
) -> None:
    setting = Setting(network, seed)
    frozen = list(setting.stack.parameters())[:1]
    optimizer = fs.QGM(
        [p for p in setting.stack.parameters() if p is not frozen[0]], topology="ring"
    )
    optimizer.step(AtRows(setting.closure))
    # adaptive norms are those of scaled gradients
    whole = Setting(network, seed)
    adaptive = fs.QSADDLe(whole.stack.parameters(), topology="ring", adaptive=True)
    adaptive.step(AtRows(whole.closure))
    assert ways == ["agent_norm", "agent_norm", "norm_of_squares"]


@pytest.mark.parametrize("network", NETWORKS)
def test_squares_of_an_earlier_step_are_not_taken(network: str, seed: int, ways: list[str]) -> None:
    setting = Setting(network, seed)
    optimizer = fs.QGM(setting.stack.parameters(), topology="ring")
    optimizer.step(AtRows(setting.closure))
    setting.closure()
    optimizer.step()
    optimizer.step(setting.closure)
    assert ways == ["norm_of_squares", "agent_norm", "agent_norm"]


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_that_are_not_finite_are_refused(network: str, seed: int) -> None:
    setting = Setting(network, seed)
    optimizer = fs.QSADDLe(setting.stack.parameters(), topology="ring")
    before = setting.stack.x.clone()
    setting.inputs[2, 0, 0] = torch.inf
    with pytest.raises(fs.NonFiniteGradientError, match=r"for agents \[2\]"):
        optimizer.step(AtRows(setting.closure))
    assert torch.equal(setting.stack.x, before)
