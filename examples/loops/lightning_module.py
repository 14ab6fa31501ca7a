"""Q-SADDLe with Lightning: automatic optimization, which passes a closure, and optimization by hand in two phases."""

from typing import Any

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fastsaddle as fs


class Automatic(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return fs.QSADDLe(self.model.parameters(), lr=0.1, rho=0.05)

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def training_step(self, batch: Any, index: int) -> Any:
        self.last = self.loss(batch)
        return self.last


class ByHand(Automatic):
    """Where batches accumulate: both passes over two batches."""

    automatic_optimization = False

    def on_train_start(self) -> None:
        self.window: list[Any] = []

    def training_step(self, batch: Any, index: int) -> None:
        self.window.append(batch)
        if len(self.window) < 2:
            return
        optimizer: Any = self.optimizers()
        self.backward_all()
        optimizer.perturb(zero_grad=True)
        self.backward_all()
        optimizer.step()
        optimizer.zero_grad()
        self.window.clear()

    def backward_all(self) -> None:
        for batch in self.window:
            self.last = self.loss(batch)
            self.manual_backward(self.last / len(self.window))


torch.manual_seed(0)
x = torch.randn(6400, 8)
loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=64)
for module in (Automatic(), ByHand()):
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    print(module.last.item())
