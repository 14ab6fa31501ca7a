"""
1,024 agents on a laptop
========================

You will learn how many agents fit into one process, what a step of all of them costs here, and what it looks like when
a model spreads over a grid of 32 x 32 agents that have one or two images each.
"""

# %%
# One or two images each
# ----------------------
#
# The images are enlarged to 28 x 28 pixels, so that the model has the size of one for MNIST: 784-32-10, with 25,450
# parameters.

import time

import matplotlib.pyplot as plt
import psutil
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

torch.set_num_threads(1)  # times below are CPU times of one thread
SIDE, STEPS = 32, 60
AGENTS = SIDE * SIDE
data = fs.sim.data.digits()
inputs, test_inputs = (
    F.interpolate(images, size=28, mode="bilinear")
    for images in (data.train_inputs, data.test_inputs)
)
parts = fs.sim.data.dirichlet(data.train_labels.numpy(), agents=AGENTS, seed=0, alpha=1.0)
batches = fs.sim.data.AgentBatches(parts, batch_size=2, seed=0)
print(f"{len(inputs)} images, {min(map(len, parts))} to {max(map(len, parts))} an agent")

# %%
# All agents as one stack
# -----------------------
#
# Models, gradients and momentum are three buffers ``[1024, 25450]``. Each agent talks to the four beside it on a grid
# that is closed to a torus.


def memory():
    return psutil.Process().memory_info().rss / 2**20


before = memory()
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
stack = fs.AgentStack(model, AGENTS)
optimizer = fs.QGM(stack.parameters(), lr=0.1, topology=fs.topology.torus(SIDE, SIDE))

# %%
# Training
# --------
#
# The closure looks at the memory of the process where a step needs most of it, after the backward pass. Every agent's
# model is tested after steps 5, 20 and 60.


def accuracies():
    found = []
    with torch.no_grad():
        for agent in range(AGENTS):
            answers = stack.agent(agent)(test_inputs).argmax(1)
            found.append(100 * (answers == data.test_labels).float().mean().item())
    return torch.tensor(found).view(SIDE, SIDE)


seconds, highest, grids = [], 0.0, {}
for step in range(STEPS):
    chosen = batches.at(step)
    x, y = inputs[chosen], data.train_labels[chosen]

    def closure(x=x, y=y):
        global highest
        optimizer.zero_grad()
        loss = stack.loss(F.cross_entropy, stack(x), y)
        loss.backward()
        highest = max(highest, memory())
        return loss

    began = time.process_time()
    optimizer.step(closure)
    seconds.append(time.process_time() - began)
    if step + 1 in (5, 20, 60):
        grids[step + 1] = accuracies()

# %%
# For comparison, the same number of steps as most programs take them: one module after the other, with torch's SGD. 32
# modules are timed, and the time is multiplied by 32. They do not talk to each other.

alone = [stack.agent(agent) for agent in range(32)]
each = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in alone]
for _ in range(2):  # the first round makes the momentum buffers
    began = time.process_time()
    for m, sgd, images, labels in zip(alone, each, x, y, strict=False):
        sgd.zero_grad()
        F.cross_entropy(m(images), labels).backward()
        sgd.step()
loop = (time.process_time() - began) * AGENTS / len(alone)

median = sorted(seconds)[STEPS // 2]
print(f"a step of all agents: {1000 * median:.0f} ms, {1e6 * median / AGENTS:.0f} us an agent")
print(f"one module after another: {1000 * loop:.0f} ms")
print(f"memory: {highest - before:.0f} MiB, of which the models are {stack.x.nbytes / 2**20:.0f}")
print(f"sent in a step: {optimizer.bytes_sent / STEPS / 2**20:.0f} MiB by all agents together")

# %%
figure, axes = plt.subplots(1, 3, figsize=(6.4, 3), layout="constrained")
for panel, (step, grid) in zip(axes, grids.items(), strict=True):
    picture = panel.imshow(grid, vmin=0, vmax=100, cmap="viridis")
    panel.set_title(f"step {step}")
    panel.set(xticks=[], yticks=[])
    panel.set_xlabel(f"mean {grid.mean():.0f} %\nworst {grid.min():.0f} %")
figure.colorbar(picture, ax=axes, label="test accuracy (%)", shrink=0.8)
figure.suptitle("Test accuracy of 1,024 agents")
plt.show()

# %%
# Every cell is an agent, at its place on the grid. At first agents know the digits that they have seen. Knowledge then
# spreads from neighbor to neighbor, until nearly all are good.
#
# What was seen
# -------------
#
# A thousand models trained in one process, on one thread, with a step that takes less time than a loop over modules.
# Times and memory above are those of the machine that built this page; :doc:`/measured` has measurements with their
# conditions. ``fastsaddle train --agents 1024`` does the same on the command line, and ``fastsaddle info --agents
# 4096`` says beforehand how much memory a run needs.
