"""CHOCO gossip under quasi-global momentum, whose buffer follows what gossip moved: signs do not go with it."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import Parameter

import fastsaddle as fs

AGENTS, COLUMNS = 16, 100
MOMENTUM = 0.9
pytestmark = pytest.mark.usefixtures("one_thread")


def signs(x: torch.Tensor) -> torch.Tensor:
    return x.abs().mean(1, keepdim=True) * torch.where(x >= 0, 1.0, -1.0).to(x)


def largest_tenth(x: torch.Tensor) -> torch.Tensor:
    kept = x.abs().topk(COLUMNS // 10, 1).indices
    return torch.zeros_like(x).scatter(1, kept, x.gather(1, kept))


def gossip(
    x: torch.Tensor,
    steps: int,
    compress: Callable[[torch.Tensor], torch.Tensor],
    gamma: float,
    beta: float,
) -> list[torch.Tensor]:
    """CHOCO and quasi-global momentum without gradients, in float64; the models after each step.

    The rate cancels: v = lr m follows what models moved.
    """
    left, right = torch.arange(AGENTS).roll(1), torch.arange(AGENTS).roll(-1)
    x, copies, v = x.double(), torch.zeros_like(x).double(), torch.zeros_like(x).double()
    found = []
    for _ in range(steps):
        h = x - beta * v
        copies = copies + compress(h - copies)
        pull = (copies[left] + copies[right] + copies) / 3 - copies
        v = beta * v + (1 - beta) * (x - (h + gamma * pull))
        x = h + gamma * pull
        found.append(x)
    return found


def trained(
    x: torch.Tensor, steps: int, compressor: fs.compressors.Compressor, gamma: float, beta: float
) -> list[torch.Tensor]:
    """The same by `fs.QGM`, whose gradients are zero."""
    p = Parameter(x.clone())
    optimizer = fs.QGM(
        [p], 0.1, topology="ring", momentum=beta, compressor=compressor, consensus_step=gamma
    )
    p.grad = torch.zeros_like(p)
    found = []
    for _ in range(steps):
        optimizer.step()
        found.append(p.detach().clone())
    return found


def distances(models: list[torch.Tensor], *after: int) -> list[float]:
    """RMS over agents of the distance to their mean after so many steps."""
    taken = [models[step - 1].double() for step in after]
    return [float((x - x.mean(0)).square().sum(1).mean().sqrt()) for x in taken]


def start(seed: int) -> torch.Tensor:
    return torch.randn(AGENTS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def test_steps_are_those_of_the_published_iteration(seed: int) -> None:
    """To float32's rounding, until that turns a sign of a difference near zero."""
    exact = gossip(start(seed), 8, signs, 0.4, MOMENTUM)
    found = trained(start(seed), 8, fs.compressors.Sign(), 0.4, MOMENTUM)
    for wanted, got in zip(exact, found, strict=True):
        near = (wanted - got).abs() < 1e-5
        assert near.double().mean() > 0.99


@pytest.mark.parametrize("gamma", [0.4, 0.1])
def test_signs_under_quasi_global_momentum_drive_agents_apart(gamma: float, seed: int) -> None:
    """In exact arithmetic as in ours, so that it is the method's."""
    for models in (
        gossip(start(seed), 600, signs, gamma, MOMENTUM),
        trained(start(seed), 600, fs.compressors.Sign(), gamma, MOMENTUM),
    ):
        early, later, late = distances(models, 100, 300, 600)
        assert 3 * early < later and 10 * later < late


def test_signs_bring_agents_together_without_it(seed: int) -> None:
    for models in (
        gossip(start(seed), 600, signs, 0.4, 0.0),
        trained(start(seed), 600, fs.compressors.Sign(), 0.4, 0.0),
    ):
        early, late = distances(models, 100, 600)
        assert late < early / 10


def test_top_k_brings_agents_together_with_it(seed: int) -> None:
    for models in (
        gossip(start(seed), 600, largest_tenth, 0.2, MOMENTUM),
        trained(start(seed), 600, fs.compressors.TopK(0.1), 0.2, MOMENTUM),
    ):
        early, late = distances(models, 100, 600)
        assert late < early / 10
