"""
How flat are the minima?
========================

You will learn how to measure the sharpness of trained models with ``fastsaddle.sharpness``, and how to draw the loss
around them. Four methods are compared: DSGD, QGM, Q-SADDLe, which is QGM with SAM gradients, and DPPF, whose agents
push each other apart to find wide valleys.
"""

# %%
# Training
# --------
#
# Sixteen agents, each with its own mix of digits. Three methods talk on a ring; DPPF averages all models every few
# steps. The learning rate falls to zero along a cosine.

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle import sharpness

torch.set_num_threads(1)  # a model as small as this gains nothing from more
AGENTS, STEPS = 16, 400
data = fs.sim.data.digits()
parts = fs.sim.data.dirichlet(data.train_labels.numpy(), agents=AGENTS, seed=0, alpha=1.0)
batches = fs.sim.data.AgentBatches(parts, batch_size=32, seed=0)

methods = {
    "DSGD": lambda p: fs.DSGD(p, lr=0.1, topology="ring"),
    "QGM": lambda p: fs.QGM(p, lr=0.1, topology="ring"),
    "Q-SADDLe": lambda p: fs.QSADDLe(p, lr=0.1, topology="ring", rho=0.2),
    "DPPF": lambda p: fs.DPPF(p, lr=0.1, agents=AGENTS, pull=0.1, push=0.02),
}


def train(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    stack = fs.AgentStack(model, AGENTS)
    optimizer = make(stack.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        chosen = batches.at(step)
        x, y = data.train_inputs[chosen], data.train_labels[chosen]

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = stack.loss(F.cross_entropy, stack(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        scheduler.step()
    return stack.consensus()


models = {name: train(make) for name, make in methods.items()}

# %%
# Measuring
# ---------
#
# All measures look at the averaged model and the loss on the whole training set. The Hessian's largest eigenvalue is
# the curvature in the steepest direction; its trace adds up the curvature in all directions, and is estimated.

on = F.cross_entropy, data.train_inputs, data.train_labels
eigenvalues, traces = [], []
print("method     test accuracy  training loss  largest eigenvalue  trace")
for name, model in models.items():
    with torch.no_grad():
        right = (model(data.test_inputs).argmax(1) == data.test_labels).float().mean()
    eigenvalues.append(sharpness.top_eigenvalue(model, *on))
    trace = sharpness.trace(model, *on, probes=50)
    traces.append(trace.estimate)
    print(
        f"{name:9}  {100 * right:11.1f} %  {sharpness.mean_loss(model, *on):13.4f}  {eigenvalues[-1]:18.2f}"
        f"  {trace.estimate:.1f} ± {trace.standard_error:.1f}"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.4), layout="constrained")
titles = "Largest eigenvalue", "Trace of the Hessian"
for panel, values, title in zip(axes, (eigenvalues, traces), titles, strict=True):
    panel.barh(list(models), values, color=["C0", "C1", "C2", "C3"])
    panel.invert_yaxis()
    panel.set_title(title)
    panel.grid(axis="y", visible=False)
axes[1].set_yticks([])
plt.show()

# %%
# Small bars are flat minima. Those of Q-SADDLe are the smallest in both measures.
#
# Two loss surfaces
# -----------------
#
# The same two random directions around both models, each scaled to the model's own weights. Along the way to the edge
# the weights change by as much as they are long.

surfaces = {
    name: sharpness.loss_surface(models[name], *on, extent=1.0, points=25)
    for name in ("QGM", "Q-SADDLe")
}

figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.6), sharey=True, layout="constrained")
places = torch.linspace(-1, 1, 25)
levels = [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
for panel, (name, surface) in zip(axes, surfaces.items(), strict=True):
    shown = dict(levels=levels, extend="max")
    filled = panel.contourf(places, places, surface, norm="symlog", cmap="viridis", **shown)
    panel.contour(places, places, surface, levels=levels, colors="white", linewidths=0.7)
    panel.plot(0, 0, "w+", markersize=10)
    panel.set_title(f"Loss around {name}")
    panel.set(xlabel="first direction", xticks=[-1, 0, 1], aspect="equal")
    panel.grid(False)
axes[0].set_ylabel("second direction")
figure.colorbar(filled, ax=axes, label="training loss", shrink=0.8)
# sphinx_gallery_thumbnail_number = 2
plt.show()

# %%
# The middle of each picture, marked by a cross, is the trained model. The same colors and lines stand for the same loss
# in both.
#
# What was seen
# -------------
#
# SAM gradients led to a minimum several times flatter than that of the same method without them, in the steepest
# direction and in all together. DPPF keeps its agents apart by a width that one chooses, push / pull; how large it may
# be depends on the model. Whether a flatter minimum tests better is another question, which a set as easy as this one
# does not answer. :doc:`/sharpness` has the other measures.
