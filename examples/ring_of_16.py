"""
Sixteen agents on a ring
========================

You will learn how to train agents that share neither a server nor their data: a stack of sixteen models, a split of the
training set, and a ring on which neighbors mix their models. You will see how far the models are from each other, the
*consensus distance*, and what makes it smaller.
"""

# %%
# Every agent its own digits
# --------------------------
#
# A Dirichlet split with a small ``alpha`` gives each agent a few classes only. ``AgentBatches`` draws a batch of each
# agent's own images for every step.

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.metrics import consensus_distance

torch.set_num_threads(1)  # a model as small as this gains nothing from more
AGENTS, STEPS = 16, 300
data = fs.sim.data.digits()
parts = fs.sim.data.dirichlet(data.train_labels.numpy(), agents=AGENTS, seed=0, alpha=0.1)
batches = fs.sim.data.AgentBatches(parts, batch_size=32, seed=0)

# %%
figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
colors = plt.get_cmap("tab10").colors
angles = 2 * np.pi * np.arange(AGENTS + 1) / AGENTS
axes.plot(np.cos(angles), np.sin(angles), color="0.6", linewidth=3, zorder=0)
for part, angle in zip(parts, angles, strict=False):
    counts = np.bincount(data.train_labels[part], minlength=10)
    axes.pie(counts, radius=0.17, center=(np.cos(angle), np.sin(angle)), colors=colors)
dots = [axes.scatter([], [], color=color, s=80) for color in colors]
axes.legend(dots, data.classes, title="digit", loc="center", ncols=2)
axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
axes.set_title("Which digits each agent on the ring has")
plt.show()

# %%
# Each pie is an agent, each color a digit. An agent talks to the two beside it, and to nobody else.
#
# Training
# --------
#
# A stack is called with the inputs of all agents, ``[agents, batch, ...]``. Its loss gives each agent the gradient of
# its own mean loss. ``DSGD`` takes a local step and then mixes each model with those of its neighbors; the graph is the
# only thing that differs between these runs. The learning rate is divided by ten after two thirds of the steps.


def train(topology):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    stack = fs.AgentStack(model, AGENTS)
    optimizer = fs.DSGD(stack.parameters(), lr=0.1, topology=topology)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [200], gamma=0.1)
    distances = []
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
        distances.append(consensus_distance(stack.x))
    return stack, distances


def accuracy(model):
    with torch.no_grad():
        return 100 * (model(data.test_inputs).argmax(1) == data.test_labels).float().mean().item()


graphs = {
    "ring": fs.topology.ring(AGENTS),
    "torus": fs.topology.torus(4, 4),
    "exponential": fs.topology.exponential(AGENTS),
}
curves = {}
print("graph        gap   neighbors  worst agent  agents' mean  averaged model")
for name, topology in graphs.items():
    stack, curves[name] = train(topology)
    each = [accuracy(stack.agent(agent)) for agent in range(AGENTS)]
    print(
        f"{name:11}  {topology.spectral_gap:.2f}  {len(topology.neighbors[0]):9}  {min(each):9.1f} %  "
        f"{sum(each) / AGENTS:10.1f} %  {accuracy(stack.consensus()):12.1f} %"
    )

# %%
figure, axes = plt.subplots(layout="constrained")
for name, curve in curves.items():
    axes.plot(range(1, STEPS + 1), curve, label=f"{name}, gap {graphs[name].spectral_gap:.2f}")
axes.axvline(200, color="0.6", linestyle=":")
axes.text(203, axes.get_ylim()[1] * 0.6, "learning rate\ndivided by ten")
axes.set(xlabel="step", ylabel="consensus distance", yscale="log", ylim=(3e-3, 2))
axes.set_title("Consensus distance on three graphs")
axes.legend()
plt.show()

# %%
# The larger the spectral gap of a graph, the closer its agents stay together. On every graph the distance grows at
# first, while gradients are large, and falls soon after the learning rate does.
#
# What was seen
# -------------
#
# Agents with a few digits each learned all ten, by talking to their neighbors alone. Better connected graphs keep them
# closer together and send more messages for it. The averaged model, ``stack.consensus()``, is a plain module. Other
# graphs, and those that change with time, are in :doc:`/graphs`.
