"""Accelerate with one agent a process: torchrun --nproc-per-node 4 examples/loops/ranks_accelerate.py"""

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fastsaddle as fs

accelerator = Accelerator(cpu=True)  # opens the process group; without cpu= on GPUs
rank = accelerator.process_index
torch.manual_seed(rank)
x = torch.randn(3200, 8)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=64, shuffle=True)
torch.manual_seed(0)  # the same first model everywhere: nothing is broadcast
model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
model.to(accelerator.device)
optimizer = fs.QSADDLe(
    model.parameters(), lr=0.1, rho=0.05, topology="ring", process_group=dist.group.WORLD
)
# neither the model, which DDP would wrap to average all agents' gradients, nor the loader, of which
# each process would get a part, though it is this agent's own
optimizer = accelerator.prepare(optimizer)

for _ in range(2):
    for batch in loader:
        inputs, targets = (t.to(accelerator.device) for t in batch)
        with accelerator.autocast():
            loss = F.cross_entropy(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.optimizer.perturb(zero_grad=True)
        with accelerator.autocast(), fs.second_pass(model):
            loss = F.cross_entropy(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

averaged = optimizer.optimizer.consensus(model)  # every rank must call it
if accelerator.is_main_process:
    x = torch.randn(1000, 8, device=accelerator.device)
    accuracy = (averaged.eval()(x).argmax(1) == x[:, :3].argmax(1)).float().mean()
    print(f"accuracy of the consensus model: {accuracy:.3f}")
accelerator.end_training()
