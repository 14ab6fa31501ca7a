"""Lightning with one agent a process: torchrun --nproc-per-node 4 examples/loops/ranks_lightning.py"""

from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fastsaddle as fs


class Agent(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.optimizer = fs.QSADDLe(
            self.model.parameters(),
            lr=0.1,
            rho=0.05,
            topology="ring",
            process_group=dist.group.WORLD,
        )
        return self.optimizer

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)


dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
x = torch.randn(3200, 8)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=64, shuffle=True)
torch.manual_seed(0)  # the same first model everywhere: nothing is broadcast
model = Agent()
trainer = L.Trainer(
    max_epochs=2,
    # each process is a training of its own to Lightning: "ddp" would average all agents' gradients,
    # and give each agent a part of its own data
    strategy=SingleDeviceStrategy("cpu"),  # on GPUs f"cuda:{os.environ['LOCAL_RANK']}"
    accelerator="cpu",
    # each process takes itself for the only one: with checkpoints, a folder for each, default_root_dir=
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, loader)

averaged = model.optimizer.consensus(model.model)  # every rank must call it
if rank == 0:
    x = torch.randn(1000, 8)
    accuracy = (averaged.eval()(x).argmax(1) == x[:, :3].argmax(1)).float().mean()
    print(f"accuracy of the consensus model: {accuracy:.3f}")
dist.destroy_process_group()
