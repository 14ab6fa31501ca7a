"""
SAM in Lightning and in Accelerate
==================================

You will learn how to train with SAM inside Lightning and inside Accelerate, and that both take exactly the steps of a
plain loop: the three trained models are compared bit for bit.
"""

# %%
# One model, one optimizer, one order of batches
# ----------------------------------------------
#
# ``QSADDLe`` on the parameters of an ordinary module is SAM with quasi-global momentum. The loader deals out the images
# in the same order to all three.

import logging
import warnings

import lightning as L
import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fastsaddle as fs

torch.set_num_threads(1)  # a model as small as this gains nothing from more
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")  # it advises more workers for the loader
data = fs.sim.data.digits()
images = TensorDataset(data.train_inputs, data.train_labels)
EPOCHS = 8


def start():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.1)
    order = torch.Generator().manual_seed(0)
    return model, optimizer, DataLoader(images, 64, shuffle=True, generator=order)


# %%
# A plain loop
# ------------
#
# The closure zeroes gradients, takes the loss and calls ``backward``. A step calls it twice and returns the first loss.

plain, optimizer, loader = start()
losses = {"plain loop": []}
for _ in range(EPOCHS):
    for x, y in loader:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(plain(x), y)
            loss.backward()
            return loss

        losses["plain loop"].append(optimizer.step(closure).item())

# %%
# Lightning
# ---------
#
# Automatic optimization passes a closure to every optimizer, so SAM needs no code of its own. Lightning calls
# ``training_step`` twice a step, once for each gradient; only the first loss is that of the model.


class Digits(L.LightningModule):
    def __init__(self, model, optimizer):
        super().__init__()
        self.model, self.optimizer = model, optimizer
        self.losses = []

    def configure_optimizers(self):
        return self.optimizer

    def training_step(self, batch, index):
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss


model, optimizer, loader = start()
module = Digits(model, optimizer)
silent = "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"
trainer = L.Trainer(max_epochs=EPOCHS, accelerator="cpu", **dict.fromkeys(silent, False))
trainer.fit(module, loader)
lightning_model, losses["Lightning"] = module.model, module.losses[::2]

# %%
# Accelerate
# ----------
#
# ``accelerator.backward`` takes the place of ``loss.backward``, so the two gradients are taken by hand. Accelerate
# wraps the optimizer, and ``perturb`` belongs to the one inside.

accelerator = Accelerator(cpu=True)
accelerated, optimizer, loader = accelerator.prepare(*start())
losses["Accelerate"] = []
for _ in range(EPOCHS):
    for x, y in loader:
        loss = F.cross_entropy(accelerated(x), y)
        accelerator.backward(loss)
        optimizer.optimizer.perturb(zero_grad=True)
        accelerator.backward(F.cross_entropy(accelerated(x), y))
        optimizer.step()
        optimizer.zero_grad()
        losses["Accelerate"].append(loss.item())

# %%
# The same models
# ---------------

accelerate_model = accelerator.unwrap_model(accelerated)
for name, other in ("Lightning", lightning_model), ("Accelerate", accelerate_model):
    pairs = zip(plain.parameters(), other.parameters(), strict=True)
    print(f"{name} has the bits of the plain loop: {all(torch.equal(p, q) for p, q in pairs)}")
with torch.no_grad():
    right = plain(data.test_inputs).argmax(1) == data.test_labels
print(f"test accuracy {100 * right.float().mean():.1f} %")

# %%
figure, axes = plt.subplots(layout="constrained")
for (name, curve), width in zip(losses.items(), (9, 5, 1.5), strict=True):
    axes.plot(curve, label=name, linewidth=width)
axes.set(xlabel="step", ylabel="training loss of the batch", yscale="log")
axes.set_title("Three loops, one curve")
axes.legend()
plt.show()

# %%
# The three curves lie on one another. They are drawn in three widths, so that all can be seen.
#
# What was seen
# -------------
#
# Lightning needed nothing, Accelerate one line, and neither changed a bit of the trained model. Accumulated batches,
# clipping and mixed precision in both are described in :doc:`/training-loops`.
