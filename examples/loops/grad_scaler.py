"""Q-SADDLe in mixed precision with a GradScaler: a step is skipped where either pass overflows."""

import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
half = torch.float16 if device == "cuda" else torch.bfloat16
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)).to(device)
optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.05)
scaler = torch.amp.GradScaler(device)


def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.autocast(device, half):
        return F.cross_entropy(model(x), y)


for x in torch.randn(200, 64, 8, device=device):
    y = x[:, :3].argmax(1)
    loss = loss_of(x, y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    optimizer.perturb(zero_grad=True)
    scaler.update()  # unscale_ may be called once between two updates

    scaler.scale(loss_of(x, y)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
print(loss.item())
