"""
Bits against accuracy
=====================

You will learn how to compress what agents send, to 8, 4 or 2 bits a number, to signs, or to the largest tenth, and how
to draw the accuracy that a byte buys.
"""

# %%
# The messages
# ------------
#
# With a compressor agents send compressed differences to public copies of their models, and mix the copies. The more a
# compressor loses, the smaller ``consensus_step`` must be, by which agents move towards their neighbors.

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

torch.set_num_threads(1)  # a model as small as this gains nothing from more
Quantizer = fs.compressors.StochasticQuantizer
compressors = {
    "float32": (None, 1.0),
    "8 bits": (Quantizer(8), 1.0),
    "4 bits": (Quantizer(4), 1.0),
    "top 10 %": (fs.compressors.TopK(0.1), 0.2),
    "2 bits": (Quantizer(2, biased=True), 0.1),
    "signs": (fs.compressors.Sign(), 0.4),
}

# %%
# Training
# --------
#
# Sixteen agents on a ring, each with its own mix of digits. ``optimizer.bytes_sent`` counts the bytes of all packed
# messages, scales and indices included.

AGENTS, STEPS = 16, 300
data = fs.sim.data.digits()
parts = fs.sim.data.dirichlet(data.train_labels.numpy(), agents=AGENTS, seed=0, alpha=1.0)
batches = fs.sim.data.AgentBatches(parts, batch_size=32, seed=0)
everybody = data.test_inputs.expand(AGENTS, *data.test_inputs.shape)


def train(compressor, consensus_step):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    stack = fs.AgentStack(model, AGENTS)
    optimizer = fs.DSGDm(
        stack.parameters(),
        lr=0.05,
        topology="ring",
        compressor=compressor,
        consensus_step=consensus_step,
    )
    megabytes, accuracies = [], []
    for step in range(STEPS):
        chosen = batches.at(step)
        x, y = data.train_inputs[chosen], data.train_labels[chosen]

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = stack.loss(F.cross_entropy, stack(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        if step < 20 or step % 10 == 9:
            with torch.no_grad():
                right = stack(everybody).argmax(-1) == data.test_labels
            accuracies.append(100 * right.float().mean().item())
            megabytes.append(optimizer.bytes_sent / AGENTS / 1e6)
    return megabytes, accuracies


curves = {name: train(*choice) for name, choice in compressors.items()}
whole = curves["float32"][0][-1]
print("messages    MB sent an agent   of float32   mean test accuracy")
for name, (megabytes, accuracies) in curves.items():
    share = 100 * megabytes[-1] / whole
    print(f"{name:10}  {megabytes[-1]:16.3f}  {share:9.1f} %  {accuracies[-1]:17.1f} %")

# %%
figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
for name, curve in curves.items():
    axes.plot(*curve, label=name)
axes.set(xscale="log", xlim=(5e-3, 8), ylim=(40, 100))
axes.set(xlabel="megabytes that an agent has sent", ylabel="mean test accuracy (%)")
axes.set_title("Accuracy against bytes sent, six kinds of messages")
axes.legend(loc="lower right")
plt.show()

# %%
# The further left a curve rises, the fewer bytes an agent sends for the same accuracy. The axis of bytes is
# logarithmic. Now the same accuracies over the steps:

figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
steps = [step + 1 for step in range(STEPS) if step < 20 or step % 10 == 9]
for name, (_, accuracies) in curves.items():
    axes.plot(steps, accuracies, label=name)
axes.set(xlabel="step", ylabel="mean test accuracy (%)", ylim=(40, 100))
axes.set_title("Accuracy against steps, six kinds of messages")
axes.legend(loc="lower right")
plt.show()

# %%
# 8 and 4 bits follow float32 so closely that their curves cover each other. The others take more steps.
#
# What was seen
# -------------
#
# 4 bits cost an eighth of the bytes of float32 and hardly anything else. 2 bits and signs save more, need a small
# ``consensus_step``, and learn more slowly. Top-k sends indices, too, which is why a tenth of the numbers is
# more than a tenth of the bytes. :doc:`/compressors` explains all of them.
