"""One agent a process: torchrun --nproc-per-node 4 examples/loops/ranks_plain_loop.py

Each agent has digits of its own, few of the ten classes; neighbors on a ring exchange models after each step.
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

dist.init_process_group("gloo")  # on GPUs "nccl", and torch.cuda.set_device
rank, agents = dist.get_rank(), dist.get_world_size()

digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
is_test = torch.arange(len(y)) % 5 == 0
test_x, test_y, x, y = x[is_test], y[is_test], x[~is_test], y[~is_test]
own = y.argsort(stable=True).tensor_split(agents)[rank]
x, y = x[own], y[own]

torch.manual_seed(0)  # the same first model everywhere: nothing is broadcast
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = fs.QSADDLe(
    model.parameters(), lr=0.1, rho=0.05, topology="ring", process_group=dist.group.WORLD
)
draw = torch.Generator().manual_seed(rank)  # batches of one's own


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x[batch]), y[batch])
    loss.backward()
    return loss


for _ in range(300):
    batch = torch.randint(len(x), (64,), generator=draw)
    optimizer.step(closure)

averaged = optimizer.consensus(model)  # every rank must call it
if rank == 0:
    accuracy = (averaged(test_x).argmax(1) == test_y).float().mean()
    print(f"accuracy of the consensus model: {accuracy:.3f}")
dist.destroy_process_group()
