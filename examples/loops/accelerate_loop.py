"""Q-SADDLe with Accelerate, with gradient accumulation: both passes over the same batches."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fastsaddle as fs

torch.manual_seed(0)
x = torch.randn(6400, 8)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=64)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.05)

accelerator = Accelerator(gradient_accumulation_steps=2)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
window = []
for _ in range(3):
    for batch in loader:
        with accelerator.accumulate(model):
            window.append(batch)
            loss = F.cross_entropy(model(batch[0]), batch[1])
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                # Accelerate's wrapper has no perturb(): that of the optimizer inside
                optimizer.optimizer.perturb(zero_grad=True)
                for inputs, targets in window:
                    accelerator.backward(F.cross_entropy(model(inputs), targets))
                window.clear()
            optimizer.step()
            optimizer.zero_grad()
print(loss.item())
