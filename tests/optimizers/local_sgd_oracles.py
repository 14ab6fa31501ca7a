"""Agents that meet every few steps, in float64.

LocalSGD; EASGD: Zhang et al. 2015 (arXiv:1412.6651); DPPF (arXiv:2507.20424): a reconstruction, the mean as consensus
point; the periods of the quadratic synchronization rule: Gu et al. 2023 (arXiv:2310.14423).
"""

from collections.abc import Callable
from typing import Any

import torch

Gradient = Callable[[int, torch.Tensor], torch.Tensor]


class LocalSGD:
    """Models `[agents, DIM]`; `local` makes a torch optimizer of one agent's model, in place of SGD with momentum."""

    def __init__(
        self,
        x: torch.Tensor,
        gradient: Gradient,
        eta: torch.Tensor,
        decay: torch.Tensor,
        *,
        period: int = 4,
        momentum: float = 0.9,
        nesterov: bool = False,
        maximize: bool = False,
        pull: float = 0.1,
        push: float = 0.5,
        local: Callable[[Any], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.x = x.clone()
        # views, so that steps in place move x
        self.models = [*self.x]
        self.gradient, self.eta, self.decay, self.period = gradient, eta, decay, period
        self.beta, self.nesterov, self.sign = momentum, nesterov, -1 if maximize else 1
        self.pull, self.push = pull, push
        self.m, self.time = [torch.zeros_like(row) for row in x], 0
        self.optimizers = None if local is None else [local([model]) for model in self.models]
        self.z = x.mean(0)

    def step(self) -> None:
        for i, x in enumerate(self.models):
            g = self.sign * self.gradient(i, x) + self.decay * x
            if self.optimizers is None:
                self.m[i] = self.beta * self.m[i] + g
                x -= self.eta * (g + self.beta * self.m[i] if self.nesterov else self.m[i])
            else:
                x.grad = g
                self.optimizers[i].param_groups[0]["lr"] = float(self.eta[0])
                self.optimizers[i].step()
        self.time += 1
        if self.time % self.period == 0:
            self.x.copy_(self.meet(self.x.clone()))

    def meet(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0).expand_as(x)


class DPPF(LocalSGD):
    def meet(self, x: torch.Tensor) -> torch.Tensor:
        A = x.mean(0)
        D = x - A
        length = D.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return x + self.pull * (A - x) + self.push * D / length


class EASGD(LocalSGD):
    def meet(self, x: torch.Tensor) -> torch.Tensor:
        a, z = self.pull / len(x), self.z
        self.z = (1 - self.pull) * z + self.pull * x.mean(0)
        return (1 - a) * x + a * z


def quadratic_period(base: int, growth: float, lr: float, left: int | None) -> int:
    """H after a synchronization at rate `lr`, with `left` steps to go."""
    H = max(int((growth / lr) ** 2), base)
    return max(H if left is None else min(H, left), 1)
