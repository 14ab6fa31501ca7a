"""
SAM in place of torch.optim, in mixed precision
===============================================

You will learn how to put sharpness-aware minimization (SAM) where a ``torch.optim`` optimizer was: in float32, under
bfloat16 autocast, and under float16 autocast with a ``GradScaler``. To see what SAM is good for, a part of the training
labels is wrong.
"""

# %%
# Data with wrong labels
# ----------------------
#
# Three of ten training images get a random label. The test images keep theirs.

import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

torch.set_num_threads(1)  # a model as small as this gains nothing from more
torch.manual_seed(0)
data = fs.sim.data.digits()
inputs, labels = data.train_inputs, data.train_labels
wrong = torch.rand(len(labels)) < 0.3
labels = torch.where(wrong, torch.randint(0, 10, labels.shape), labels)


def network():
    torch.manual_seed(1)
    hidden = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


# %%
# One step each
# -------------
#
# SGD with momentum is torch's own. SAM with the same momentum is a gradient and a rule; without ``communicator=`` the
# optimizer works on an ordinary module, as one agent. A step calls the closure twice: at the model, and at the point
# nearby where the loss is highest. bfloat16 needs autocast around the forward pass, and nothing else.


def sam(model):
    gradient, rule = fs.gradients.SAM(rho=0.2), fs.rules.Momentum("local", momentum=0.9)
    return fs.Optimizer(model.parameters(), lr=0.05, gradient=gradient, rule=rule)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def step(model, optimizer, x, y, bfloat16=False):
    def closure():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)


# %%
# float16 needs a ``GradScaler``, which knows no closures. Then the two gradients are taken by hand, with
# ``optimizer.perturb`` between them. A step whose gradients overflow in either pass is skipped.

scaler = torch.amp.GradScaler("cpu")


def scaled_step(model, optimizer, x, y):
    def backward():
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()

    backward()
    scaler.unscale_(optimizer)
    optimizer.perturb(zero_grad=True)
    scaler.update()  # unscale_ may be called once between two updates
    backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


# %%
# Training
# --------
#
# All four see the same batches.

ways = {
    "SGD": (sgd, step),
    "SAM": (sam, step),
    "SAM, bfloat16": (sam, lambda *of: step(*of, bfloat16=True)),
    "SAM, float16": (sam, scaled_step),
}
curves = {}
for name, (optimizer_of, take_step) in ways.items():
    model, curve = network(), []
    optimizer = optimizer_of(model)
    draws, began = torch.Generator().manual_seed(2), time.process_time()
    for _ in range(25):
        for batch in torch.randperm(len(labels), generator=draws).split(64):
            take_step(model, optimizer, inputs[batch], labels[batch])
        with torch.no_grad():
            right = model(data.test_inputs).argmax(1) == data.test_labels
        curve.append(100 * right.float().mean().item())
    seconds = time.process_time() - began
    curves[name] = curve
    print(f"{name:14} test accuracy {curve[-1]:.1f} %, {seconds:.1f} s of CPU time")

# %%
figure, axes = plt.subplots(layout="constrained")
for (name, curve), style in zip(curves.items(), ("k--", "C0", "C1", "C2"), strict=True):
    axes.plot(range(1, 26), curve, style, label=name, linewidth=2)
axes.set(xlabel="passes over the training set", ylabel="test accuracy (%)", ylim=(75, 100))
axes.set_title("Test accuracy with 30 % wrong labels: SGD falls, SAM holds")
axes.legend()
plt.show()

# %%
# The more often SGD sees the wrong labels, the better it knows them by heart, and its test accuracy falls. The three
# curves of SAM stay up, close to each other.
#
# What was seen
# -------------
#
# SAM replaced SGD without a change to the model or the data. It ended with a higher test accuracy in every precision.
# The price is a second gradient a step. Half precision saves no time on a CPU with a model as small as this. On a
# GPU, write ``"cuda"`` for ``"cpu"``, and move model and data there. More ways to take the two gradients are in
# :doc:`/training-loops`.
