"""Q-SADDLe in a loop of one's own: with a closure, and in two phases, where batches accumulate."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.05)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
inputs = torch.randn(100, 64, 8)
batches = [(x, x[:, :3].argmax(1)) for x in inputs]


def closure(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


for x, y in batches:
    loss = optimizer.step(partial(closure, x, y))  # calls it twice, and returns the first loss
    scheduler.step()


def backward(window: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    losses = [F.cross_entropy(model(x), y) / len(window) for x, y in window]
    for loss in losses:
        loss.backward()
    return torch.stack(losses).sum()


for first in range(0, len(batches), 2):
    window = batches[first : first + 2]
    loss = backward(window)
    optimizer.perturb(zero_grad=True)
    backward(window)
    optimizer.step()
    optimizer.zero_grad()
    scheduler.step()
print(loss.item())
