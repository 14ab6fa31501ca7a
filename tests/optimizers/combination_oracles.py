"""Where the gradient is taken, what is done with it and how rows travel, each in float64 from its equations, W dense.

SAM: Foret et al. 2020 (arXiv:2010.01412), adaptive by Kwon et al. 2021 (arXiv:2102.11600), without its constant.
LookSAM: Liu et al. 2022 (arXiv:2203.02714). MomentumSAM: Becker et al. 2024 (arXiv:2401.12033). ESAM's weights: Du et
al. 2021 (arXiv:2110.03141). DFedSAM: Shi et al. 2023 (arXiv:2302.04083). Compressed tracking: every row that is sent
has public copies of its own, as models have in Koloskova et al. 2019 (arXiv:1902.00340); a reconstruction.
"""

from collections.abc import Callable
from typing import Any

import torch

import fastsaddle as fs
from tests.comm.compressor_oracles import WORD, philox
from tests.optimizers import tracking_oracles
from tests.optimizers.agent_losses import SHAPES, SIZES, AgentLosses
from tests.optimizers.local_sgd_oracles import LocalSGD

Map = Callable[[torch.Tensor], torch.Tensor]


class Taken:
    """The gradients that agents take at models y, a row for each: `taken(agent, y)` of one, `taken.all(y)` of all.

    Args:
        world: whose losses they are, on the data of its step `now`.
        rho: the radius, or one for each column; None takes them plainly.
        adaptive, sam: as in `fs.gradients.SAM`.
        sign: -1 where losses are maximized.
        seed, order: what ESAM draws by: the numbers of tensors, in their order in the parameter groups.
    """

    def __init__(
        self,
        world: AgentLosses,
        *,
        rho: Any = None,
        adaptive: bool = False,
        sam: Any = None,
        sign: float = 1.0,
        seed: int = 0,
        order: tuple[int, ...] = (0, 1, 2, 3, 4),
    ) -> None:
        self.world, self.rho, self.adaptive, self.sam = world, rho, adaptive, sam
        self.sign, self.seed, self.order = sign, seed, order
        # the momentum that MomentumSAM perturbs along
        self.buffers: Callable[[], Any] = list
        self.across: dict[int, torch.Tensor] = {}

    def __call__(self, agent: int, y: torch.Tensor) -> torch.Tensor:
        return self.of([agent], y[None])[0]

    def all(self, y: torch.Tensor) -> torch.Tensor:
        return self.of(list(range(len(y))), y)

    def plain(self, agents: list[int], y: torch.Tensor) -> torch.Tensor:
        y = y.detach().clone().requires_grad_()
        parts = [
            part.reshape(-1, *shape) for part, shape in zip(y.split(SIZES, 1), SHAPES, strict=True)
        ]
        return torch.autograd.grad(self.world.of(parts, agents).sum(), y)[0]

    def of(self, agents: list[int], y: torch.Tensor) -> torch.Tensor:
        g, rho, sam = self.plain(agents, y), self.rho, self.sam
        if rho is None:
            return g
        if isinstance(sam, fs.LookSAM) and self.world.now % sam.period:
            across = torch.stack([self.across[i] for i in agents])
            return g + sam.strength * g.norm(dim=1, keepdim=True) * across
        direction = self.sign * g
        if isinstance(sam, fs.MomentumSAM):
            direction = -torch.stack([self.buffers()[i] for i in agents])
        if isinstance(sam, fs.ESAM):
            kept = torch.stack([self.kept(i, sam.weights) for i in agents])
            direction, rho = kept * direction, rho / sam.weights
        size, scale = direction, torch.ones_like(y)
        if self.adaptive:
            size, scale = y.abs() * direction, y.square()
        norm = size.norm(dim=1, keepdim=True) + 1e-12
        sharp = self.plain(agents, y + rho * scale * direction / norm)
        if isinstance(sam, fs.LookSAM):
            for i, one, other in zip(agents, g, sharp, strict=True):
                across = other - (one @ other) / one.norm().square() * one
                self.across[i] = across / across.norm()
        return sharp

    def kept(self, agent: int, chance: float) -> torch.Tensor:
        """Ones where a tensor is perturbed: 16 bits of its own are below the chance."""
        key = (self.seed & WORD, self.seed >> 32)
        words = philox((0, agent, self.world.now, 4), key)
        masks = [torch.zeros(size).double() for size in SIZES]
        for number, tensor in enumerate(self.order):
            bits = words[number // 2] >> 16 * (number % 2) & 0xFFFF
            masks[tensor] += float(bits < chance * 2**16)
        return torch.cat(masks)


class Copies:
    """One kind of row with public copies r^, zero at first; called with rows r it gives what stands for W r."""

    def __init__(
        self, W: torch.Tensor, gamma: float, Q: Map | None = None, then_compress: bool = False
    ) -> None:
        self.W, self.gamma, self.Q, self.then_compress = W, gamma, Q, then_compress
        self.hat: Any = 0.0

    def __call__(self, r: torch.Tensor) -> torch.Tensor:
        if self.Q is None:
            return r + self.gamma * (self.W @ r - r)
        if self.then_compress:
            after = r + self.pull(r)
            self.publish(after)
            return after
        self.publish(r)
        return r + self.pull(r)

    def publish(self, r: torch.Tensor) -> None:
        assert self.Q is not None
        self.hat = self.hat + self.Q(r - self.hat)

    def pull(self, r: torch.Tensor) -> torch.Tensor:
        hat = self.hat + torch.zeros_like(r)
        return self.gamma * (self.W @ hat - hat)


def tensorwise(Q: Map) -> Map:
    """Q of each tensor of rows `[agents, DIM]`."""
    return lambda rows: torch.cat([Q(part) for part in rows.split(SIZES, 1)], 1)


class Compressed(tracking_oracles.Agents):
    """`first` and `second` mix the rows that are sent, each with copies of its own."""

    first: Copies
    second: Copies


class GradientTracking(Compressed):
    def begin(self) -> None:
        self.y = self.old = torch.zeros_like(self.x)

    def update(self) -> None:
        g = self.g(self.x)
        self.y = self.first(self.y) + g - self.old
        self.x, self.old = self.second(self.x) - self.eta * self.sgd(self.y), g


class MomentumTracking(Compressed):
    def begin(self) -> None:
        self.u = self.c = torch.zeros_like(self.x)

    def update(self) -> None:
        self.u = self.beta * self.u + self.g(self.x)
        sent = self.c - self.u
        self.x = self.first(self.x) + self.eta * sent
        self.c = self.second(sent) + self.u


class D2(Compressed):
    def begin(self) -> None:
        self.c, self.before = torch.zeros_like(self.x), self.eta

    def update(self) -> None:
        self.c, self.before = self.c * self.eta / self.before, self.eta
        h = self.x - self.eta * self.sgd(self.g(self.x))
        self.x = self.first(h + self.c)
        self.c = self.x - h


class QGAdam(Compressed, tracking_oracles.QGAdam):
    def update(self) -> None:
        # the sums that gossip would be are those of the copies
        g, t = self.g(self.x), self.time + 1
        m = self.beta1 * self.mh + (1.0 if self.both else 1 - self.beta1) * g
        v = self.beta2 * self.vh + (1 - self.beta2) * g.square()
        root = (v / (1 - self.beta2**t)).sqrt() + self.eps
        after = self.first(self.x - self.eta / (1 - self.beta1**t) * m / root)
        moved = self.x - after
        moved = moved / (moved.norm(dim=1, keepdim=True) + 1e-8)
        self.mh = self.beta1 * self.mh + (1 - self.beta1) * moved if self.both else m
        self.vh = self.beta2 * self.vh + (1 - self.beta2) * moved.square()
        self.x = after


class LocalSteps(tracking_oracles.Agents):
    """SGD whose agents talk every `every` steps, `rounds` times in a row; `qg` is mu of quasi-global momentum."""

    first: Copies
    every, rounds, qg = 1, 1, None

    def talk(self, h: torch.Tensor) -> torch.Tensor:
        if (self.time + 1) % self.every == 0:
            for _ in range(self.rounds):
                h = self.first(h)
        return h

    def update(self) -> None:
        before, held = self.x, self.m
        self.x = self.talk(before - self.eta * self.sgd(self.g(before)))
        if self.qg is not None:
            self.m = self.qg * held + (1 - self.qg) * (before - self.x) / self.eta


class Adapted(LocalSteps):
    """Mixed models are what is stepped from: combine, then adapt."""

    def update(self) -> None:
        before, held = self.x, self.m
        self.x = self.talk(before) - self.eta * self.sgd(self.g(before))
        if self.qg is not None:
            self.m = self.qg * held + (1 - self.qg) * (before - self.x) / self.eta


class AveragedAdam(tracking_oracles.QGAdam):
    """Quasi-global Adam alone, then the mean of all every `every` steps."""

    every = 4

    def update(self) -> None:
        super().update()
        if (self.time + 1) % self.every == 0:
            self.x = self.x.mean(0).expand_as(self.x).clone()


class LocalGossip(LocalSGD):
    """Any optimizer for the local steps, then `rounds` gossips every `period` steps."""

    W: torch.Tensor
    rounds = 1

    def meet(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_power(self.W, self.rounds) @ x
