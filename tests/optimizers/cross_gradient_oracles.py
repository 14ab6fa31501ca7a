"""NGM and N-SADDLe in float64, agent by agent, from the published equations.

Aketi et al. 2023 (arXiv:2209.14390), Choudhary et al. 2024 (arXiv:2405.13961, reconstructed), with CHOCO for models and
error feedback for the gradients that travel (Koloskova et al. 2019, arXiv:1902.00340; CompNGC).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Gradient = Callable[[int, torch.Tensor], torch.Tensor]
Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class CrossGradients:
    """All agents; `x` is `[agents, DIM]`, `gradient(agent, model)` is of that agent's loss."""

    x: torch.Tensor
    W: torch.Tensor
    gradient: Gradient
    eta: torch.Tensor
    decay: torch.Tensor
    cross_gradients: str = "data"
    momentum: float = 0.9
    qg_momentum: float | None = None
    nesterov: bool = False
    mixed_self_gradient: bool = False
    consensus_step: float = 1.0
    maximize: bool = False
    rho: float = 0.0
    adaptive: bool = False
    perturb: str = "all"
    Q: Map | None = None
    e: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.m, self.x_hat = torch.zeros_like(self.x), torch.zeros_like(self.x)
        # NGC's code: a quasi-global buffer follows mixed models, over the rate of the step before
        self.follows_mixed = self.mixed_self_gradient and self.qg_momentum is not None
        self.before: tuple[torch.Tensor, torch.Tensor] | None = None

    def grad(self, agent: int, y: torch.Tensor, sharp: bool) -> torch.Tensor:
        sign = -1 if self.maximize else 1
        if sharp and self.rho:
            g = self.gradient(agent, y)
            size, scale = (y.abs() * g, y.square()) if self.adaptive else (g, torch.ones_like(g))
            y = y + sign * self.rho * scale * g / (size.norm() + 1e-12)
        return sign * self.gradient(agent, y)

    def received(self, i: int, j: int, known: torch.Tensor) -> torch.Tensor:
        """The cross-gradient between agents i and j that agent i averages."""
        everywhere = self.perturb == "all"
        if self.cross_gradients == "model":
            return self.grad(i, known[j], everywhere)
        p = self.grad(j, known[i], everywhere)
        if self.Q is None:
            return p
        p = p + self.e.get((j, i), torch.zeros_like(p))
        c = self.Q(p)
        self.e[j, i] = p - c
        return c

    def step(self) -> None:
        x, W, agents = self.x, self.W, range(len(self.x))
        known = x
        if self.Q is not None:
            self.x_hat = torch.stack([self.x_hat[i] + self.Q(x[i] - self.x_hat[i]) for i in agents])
            known = self.x_hat
        after, mixed_models = [], []
        for i in agents:
            neighbors = [j for j in agents if j != i and W[i, j] > 0]
            pull = W[i, i] * known[i] + sum(W[i, j] * known[j] for j in neighbors) - known[i]
            mixed = x[i] + self.consensus_step * pull
            mixed_models.append(mixed)
            if self.follows_mixed and self.before is not None:
                moved = (self.before[0][i] - mixed) / self.before[1]
                self.m[i] = self.qg_momentum * self.m[i] + (1 - self.qg_momentum) * moved
            own = mixed if self.mixed_self_gradient else x[i]
            G = W[i, i] * self.grad(i, own, True) + self.decay * own
            for j in neighbors:
                G = G + W[i, j] * self.received(i, j, known)
            m = self.momentum * self.m[i] + G
            after.append(mixed - self.eta * (G + self.momentum * m if self.nesterov else m))
            if self.qg_momentum is None:
                self.m[i] = m
            elif not self.follows_mixed:
                moved = (x[i] - after[i]) / self.eta
                self.m[i] = self.qg_momentum * self.m[i] + (1 - self.qg_momentum) * moved
        self.x = torch.stack(after)
        self.before = torch.stack(mixed_models), self.eta.clone()
