"""Arguments that gossip_step, its halves and choco_step have in common."""

import torch

from fastsaddle.kernels.arguments import Array, Flag, Int, Rate, Rows, State

SAVED = Rows(
    "saved",
    optional=True,
    about="the models as they were before SAM's perturbation; None where there is none to undo",
)
G = Rows("g", about="the gradients")
MOMENTUM = State("momentum", written=True, optional=True, about="None for kind 0")
LR = Rate("lr", about="learning rate")
WEIGHT_DECAY = Rate("weight_decay")
BETA = Rate("beta", about="how much of the momentum stays")
MU = Rate("mu", about="how much of quasi-global momentum stays")
NORM = Array(
    "norm",
    optional=True,
    about="norms of the gradients: an agent whose norm is not finite takes no local step and keeps its momentum; its "
    "model still takes part in the mixing",
)
KIND = Int("kind", about="0, 1 or 2: no momentum, local, quasi-global")
NESTEROV = Flag("nesterov", about="Nesterov's form of momentum")
MAXIMIZE = Flag("maximize", about="the gradient's sign is turned")
ACTIVE = Array(
    "active",
    torch.bool,
    optional=True,
    default="None",
    about="an agent that is not active takes no local step either, as if its norm were not finite. For agents with "
    "clocks of their own, and for faults",
)
LISTED = "each agent itself, then its neighbors, padded with -1"
