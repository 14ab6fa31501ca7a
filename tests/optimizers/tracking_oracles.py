"""Methods that correct for heterogeneous data, in float64 from the published equations, W dense.

GradientTracking: Nedic, Olshevsky and Shi 2017 (arXiv:1607.03218), combine-then-adapt. MomentumTracking: Takezawa et
al. 2022 (arXiv:2209.15505). D2: Tang et al. 2018 (arXiv:1803.07068), with momentum as in RelaySum's code. QGAdam: Lin
et al. 2021 (arXiv:2102.04761), both released forms. GUT: Aketi et al. 2023 (arXiv:2305.04792). RelaySGD: Vogels et al.
2021 (arXiv:2110.04175), RelaySum/Model.
"""

from collections.abc import Callable

import torch

Gradient = Callable[[int, torch.Tensor], torch.Tensor]


class Agents:
    """All agents' models `[agents, DIM]`; W is damped, W~ = (1 - gamma) I + gamma W."""

    def __init__(
        self,
        x: torch.Tensor,
        W: torch.Tensor,
        gradient: Gradient,
        eta: torch.Tensor,
        decay: torch.Tensor,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        consensus_step: float = 1.0,
        maximize: bool = False,
    ) -> None:
        self.x, self.gradient, self.eta, self.decay = x, gradient, eta, decay
        eye = torch.eye(len(W), dtype=torch.float64)
        self.W = (1 - consensus_step) * eye + consensus_step * W
        self.beta, self.nesterov, self.sign = momentum, nesterov, -1 if maximize else 1
        self.m, self.time = torch.zeros_like(x), 0
        self.begin()

    def begin(self) -> None:
        """What is kept besides models and momentum."""

    def g(self, x: torch.Tensor) -> torch.Tensor:
        gradients = torch.stack([self.gradient(i, row) for i, row in enumerate(x)])
        return self.sign * gradients + self.decay * x

    def sgd(self, y: torch.Tensor) -> torch.Tensor:
        self.m = self.beta * self.m + y
        return y + self.beta * self.m if self.nesterov else self.m

    def step(self) -> None:
        self.update()
        self.time += 1

    def update(self) -> None:
        raise NotImplementedError


class GradientTracking(Agents):
    def update(self) -> None:
        g = self.g(self.x)
        self.y = g if self.time == 0 else self.W @ self.y + g - self.g_old
        self.x, self.g_old = self.W @ self.x - self.eta * self.sgd(self.y), g


class MomentumTracking(Agents):
    def begin(self) -> None:
        self.u, self.c = torch.zeros_like(self.x), torch.zeros_like(self.x)

    def update(self) -> None:
        self.u = self.beta * self.u + self.g(self.x)
        self.x = self.W @ self.x - self.eta * (self.u - self.c)
        self.c = self.W @ (self.c - self.u) + self.u


class D2(Agents):
    def begin(self) -> None:
        self.c, self.before = torch.zeros_like(self.x), torch.zeros(1, 1).double()

    def update(self) -> None:
        # it rests at the rate times a gradient
        change = self.eta / self.before
        c = torch.where((self.eta > 0) & (self.before > 0), change * self.c, self.c)
        u = -self.eta * self.sgd(self.g(self.x))
        after = self.W @ (self.x + u + c)
        self.x, self.c, self.before = after, after - self.x - u, self.eta


class QGAdam(Agents):
    """`both` moments quasi-global, or only the second (the form that the released code selects)."""

    both, beta1, beta2, eps = False, 0.9, 0.999, 1e-8

    def begin(self) -> None:
        self.mh, self.vh = torch.zeros_like(self.x), torch.zeros_like(self.x)

    def update(self) -> None:
        g, t = self.g(self.x), self.time + 1
        m = self.beta1 * self.mh + (1.0 if self.both else 1 - self.beta1) * g
        v = self.beta2 * self.vh + (1 - self.beta2) * g.square()
        root = v.sqrt() / (1 - self.beta2**t) ** 0.5 + self.eps
        after = self.W @ (self.x - self.eta / (1 - self.beta1**t) * m / root)
        delta = self.x - after
        n = delta / (delta.norm(dim=1, keepdim=True) + 1e-8)
        self.mh = self.beta1 * self.mh + (1 - self.beta1) * n if self.both else m
        self.vh = self.beta2 * self.vh + (1 - self.beta2) * n.square()
        self.x = after


class GUT(Agents):
    tracking = 0.9

    def update(self) -> None:
        b = 1 + self.beta + (self.beta**2 if self.nesterov else 0)
        mixed, before = self.W @ self.x, self.eta if self.time == 0 else self.eta_old
        delta = self.g(mixed) - (mixed - self.x) / before
        y = delta
        if self.time:
            moved = (self.mixed_old - mixed) / before
            lag = b * (self.mixed_old - self.x_old) / before
            y = delta + self.tracking * (moved - self.delta_old - lag)
        self.x_old, self.mixed_old, self.delta_old, self.eta_old = self.x, mixed, delta, self.eta
        self.x = self.x - self.eta * self.sgd(y)


class RelaySGD(Agents):
    """Along a tree: W says only who are neighbors."""

    def begin(self) -> None:
        n = len(self.x)
        self.N = [[j for j in range(n) if j != i and self.W[i, j] > 0] for i in range(n)]
        edges = [(i, j) for i in range(n) for j in self.N[i]]
        self.message = {edge: torch.zeros_like(self.x[0]) for edge in edges}
        self.count = dict.fromkeys(edges, 0)

    def update(self) -> None:
        h, n = self.x - self.eta * self.sgd(self.g(self.x)), len(self.x)
        sent, counted = {}, {}
        for i, j in self.message:
            others = [k for k in self.N[i] if k != j]
            sent[i, j] = h[i] + sum(self.message[k, i] for k in others)
            counted[i, j] = 1 + sum(self.count[k, i] for k in others)
        self.message, self.count = sent, counted
        after = []
        for i in range(n):
            missing = n - sum(counted[k, i] for k in self.N[i])
            after.append((missing * h[i] + sum(sent[k, i] for k in self.N[i])) / n)
        self.x = torch.stack(after)
