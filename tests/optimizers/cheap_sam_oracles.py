"""SADDLe with cheaper SAM gradients in float64, agent by agent, from the published equations.

LookSAM: Liu et al. 2022 (arXiv:2203.02714), whole-model form; MomentumSAM: Becker et al. 2024 (arXiv:2401.12033);
ESAM's weights: Du et al. 2021 (arXiv:2110.03141); adaptive: Kwon et al. 2021 (arXiv:2102.11600) without its constant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fastsaddle.gradients.ascents import ESAM, Ascent, LookSAM, MomentumSAM


@dataclass
class CheapSaddle:
    """All agents; `x` is `[agents, DIM]`, `gradient(agent, model)` is of that agent's loss.

    `kept[step, agent, slot]` are the weights `[DIM]` that ESAM perturbs; the slots of an agent are the models that it
    evaluates: its own, then those of its neighbors, ascending.
    """

    x: torch.Tensor
    W: torch.Tensor
    gradient: Callable[[int, torch.Tensor], torch.Tensor]
    eta: torch.Tensor
    decay: torch.Tensor
    method: str
    sam: Ascent | None = None
    rho: float = 0.05
    adaptive: bool = False
    momentum: float = 0.0
    qg_momentum: float | None = None
    nesterov: bool = False
    consensus_step: float = 1.0
    maximize: bool = False
    cross_gradients: str = "data"
    perturb: str = "all"
    mixed_self_gradient: bool = False
    kept: Mapping[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.m, self.now = torch.zeros_like(self.x), 0
        self.v: dict[tuple[int, int], Any] = {}

    def neighbors(self, i: int) -> list[int]:
        return [j for j in range(len(self.x)) if j != i and self.W[i, j] > 0]

    def grad(self, agent: int, y: torch.Tensor) -> torch.Tensor:
        """Of what is minimized."""
        return -self.gradient(agent, y) if self.maximize else self.gradient(agent, y)

    def sharp(self, agent: int, owner: int, y: torch.Tensor) -> torch.Tensor:
        """The gradient that `agent` takes at `owner`'s model y."""
        if agent != owner and self.perturb == "self":
            return self.grad(agent, y)
        g, sam = self.grad(agent, y), self.sam
        if isinstance(sam, LookSAM) and self.now % sam.period:
            return g + sam.strength * g.norm() * self.v[agent, owner]
        direction, radius = g, self.rho
        if isinstance(sam, MomentumSAM):
            direction = -self.m[agent]
        if isinstance(sam, ESAM):
            slot = [agent, *self.neighbors(agent)].index(owner)
            direction, radius = self.kept[self.now, agent, slot] * g, radius / sam.weights
        size, scale = direction, torch.ones_like(y)
        if self.adaptive:
            size, scale = y.abs() * direction, y.square()
        gs = self.grad(agent, y + radius * scale * direction / (size.norm() + 1e-12))
        if isinstance(sam, LookSAM):
            across = gs - (g @ gs) / g.norm().square() * g
            self.v[agent, owner] = across / across.norm()
        return gs

    def step(self) -> None:
        x, W, gamma = self.x, self.W, self.consensus_step
        agents = range(len(x))
        mixed = x + gamma * (W @ x - x)
        crossing = self.method == "nsaddle"
        at = mixed if self.mixed_self_gradient else x
        after, momenta = [], []
        for i in agents:
            g = self.sharp(i, i, at[i])
            if crossing:
                g = W[i, i] * g
                for j in self.neighbors(i):
                    one, other = (j, i) if self.cross_gradients == "data" else (i, j)
                    g = g + W[i, j] * self.sharp(one, other, x[other])
            g = g + self.decay * at[i]
            m = self.momentum * self.m[i] + g
            u = g + self.momentum * m if self.nesterov else m
            after.append((mixed[i] if crossing else x[i]) - self.eta * u)
            momenta.append(m)
        h = torch.stack(after)
        self.x = h if crossing else h + gamma * (W @ h - h)
        mu = self.qg_momentum
        if mu is None and self.method == "qsaddle":
            mu = self.momentum
        if mu is None:
            self.m = torch.stack(momenta)
        else:
            self.m = mu * self.m + (1 - mu) * (x - self.x) / self.eta
        self.now += 1
