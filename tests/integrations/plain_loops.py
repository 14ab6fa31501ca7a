"""The loops that a user would write without any library, which those of the libraries are held against."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fastsaddle as fs

STEPS, BATCH = 20, 6
Batch = tuple[torch.Tensor, torch.Tensor]


class Network(nn.Module):
    """A perceptron with a normalization, whose statistics tell how often it was called."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def loader(seed: int, batches: int = STEPS) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batches * BATCH, 8, generator=draw)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), BATCH)


def qgm(parameters: Any) -> fs.QGM:
    return fs.QGM(parameters, lr=0.1, weight_decay=1e-3)


def saddle(parameters: Any) -> fs.QSADDLe:
    return fs.QSADDLe(parameters, lr=0.1, rho=0.1, weight_decay=1e-3)


def momentum_sam(parameters: Any) -> fs.QSADDLe:
    return fs.QSADDLe(parameters, lr=0.1, rho=0.5, weight_decay=1e-3, sam=fs.MomentumSAM())


class Plain:
    """Takes steps on windows of one batch or more, whose gradients are averaged."""

    def __init__(
        self,
        make: Callable[[Any], Any],
        seed: int,
        clip: float | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self.model = Network(seed)
        self.optimizer = make(self.model.parameters())
        self.clip, self.precision = clip, precision

    def backward(self, window: Sequence[Batch]) -> torch.Tensor:
        self.optimizer.zero_grad()
        for x, y in window:
            half = (
                nullcontext() if self.precision is None else torch.autocast("cpu", self.precision)
            )
            with half:
                loss = F.cross_entropy(self.model(x), y) / len(window)
            loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        return loss

    def step(self, window: Sequence[Batch]) -> None:
        # a closure is called as often as the method needs
        self.optimizer.step(lambda: self.backward(window))

    def run(self, batches: Sequence[Batch], window: int = 1) -> "Plain":
        for first in range(0, len(batches), window):
            self.step(batches[first : first + window])
        return self

    def check(self, model: nn.Module, optimizer: Any) -> None:
        """Raise AssertionError unless model, statistics and state are the same to the bit."""
        assert not optimizer.perturbed
        ours, theirs = self.model.state_dict(), model.state_dict()
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
        for p, q in zip(self.model.parameters(), model.parameters(), strict=True):
            held = self.optimizer.state[p]
            for name, value in held.items():
                assert torch.equal(value, optimizer.state[q][name]), name
        assert not torch.equal(next(model.parameters()), next(Network(0).parameters()))
