"""Methods on graphs that point one way, in float64 from the published equations, W dense.

Push-sum: Assran et al. 2019 (arXiv:1811.10792), numerators x and weights w kept apart; with quasi-global momentum ours.
Push-Pull: Pu, Shi, Xu and Nedic 2018 (arXiv:1810.06653), equation 4.
"""

from collections.abc import Callable

import torch

from tests.optimizers.tracking_oracles import Agents

# of a gossip's number, its W
Rounds = Callable[[int], torch.Tensor]


class PushSum(Agents):
    """`x` are the models z; the numerators are `sums`."""

    rounds_of: Rounds
    every, rounds, qg = 1, 1, None

    def begin(self) -> None:
        self.sums, self.w, self.gossips = self.x.clone(), torch.ones(len(self.x), 1).double(), 0

    def update(self) -> None:
        before, held = self.x, self.m
        self.sums = self.sums - self.eta * self.sgd(self.g(before))
        if (self.time + 1) % self.every == 0:
            for _ in range(self.rounds):
                P = self.rounds_of(self.gossips)
                self.sums, self.w, self.gossips = P @ self.sums, P @ self.w, self.gossips + 1
        self.x = self.sums / self.w
        if self.qg is not None:
            self.m = self.qg * held + (1 - self.qg) * self.w * (before - self.x) / self.eta


class PushPull(Agents):
    pulled: Rounds
    pushed: Rounds

    def update(self) -> None:
        g = self.g(self.x)
        self.y = g if self.time == 0 else self.pushed(self.time) @ self.y + g - self.g_old
        self.x, self.g_old = self.pulled(self.time) @ (self.x - self.eta * self.y), g


def digraph(agents: int, seed: int, columns: bool = True, connected: bool = True) -> torch.Tensor:
    """Uneven weights on a ring and some further edges, or some edges alone; columns, or rows, sum to one."""
    draw = torch.Generator().manual_seed(seed)
    links = torch.rand(agents, agents, generator=draw) < 1.5 / agents
    links |= torch.eye(agents, dtype=torch.bool)
    if connected:
        links |= torch.eye(agents, dtype=torch.bool).roll(1, 0)
    W = links * (0.2 + torch.rand(agents, agents, generator=draw).double())
    return W / W.sum(0 if columns else 1, keepdim=True)
