"""A small network for every agent, on other data at each step: what trajectories are followed on."""

from collections.abc import Callable
from typing import Any

import networkx as nx
import torch

import fastsaddle as fs
from tests.optimizers.test_trajectories import metropolis

Tensors = list[torch.Tensor]
# one agent's shapes: odd sizes, and a number without dimensions
SHAPES = ((3, 5), (5,), (5, 2), (), (1, 2))
SIZES = tuple(torch.Size(shape).numel() for shape in SHAPES)
DIM, STEPS, DROP, RATE, DECAY = sum(SIZES), 20, 10, 0.08, 1e-2
KITE = [(0, 1), (1, 2), (2, 3), (1, 3), (3, 4)]
BROOM = [(0, 1), (1, 2), (2, 3), (2, 4), (2, 5)]
# weights of its own: no two links alike, an agent that hardly listens to itself
UNEVEN = [[0.1, 0.6, 0.3, 0.0], [0.6, 0.0, 0.1, 0.3], [0.3, 0.1, 0.4, 0.2], [0.0, 0.3, 0.2, 0.5]]
# topology, W, and the backend that it is followed on
GRAPHS: dict[str, tuple[fs.Topology, torch.Tensor, str]] = {
    "ring": (fs.topology.ring(5), metropolis([(i, (i + 1) % 5) for i in range(5)], 5), "native"),
    "kite": (fs.topology.from_networkx(nx.Graph(KITE)), metropolis(KITE, 5), "reference"),
    "broom": (fs.topology.from_networkx(nx.Graph(BROOM)), metropolis(BROOM, 6), "reference"),
    "uneven": (fs.topology.from_matrix(UNEVEN), torch.tensor(UNEVEN).double(), "native"),
    "path": (fs.topology.from_networkx(nx.path_graph(4)), metropolis([(0, 1), (1, 2), (2, 3)], 4), "native"),
}  # fmt: skip


class AgentLosses:
    """Losses that are smooth and not convex, of each agent another one; `now` is the step whose data they are on."""

    def __init__(self, agents: int, seed: int, same: bool = False, sign: float = 1.0) -> None:
        self.agents, self.sign, self.now = agents, sign, 0
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw).double()

        self.inputs = normal(STEPS, agents, 4, 3) + 0.5 * normal(agents, 1, 3)
        self.targets = normal(STEPS, agents, 4, 2) + normal(agents, 1, 2)
        drawn = [0.5 * normal(1 if same else agents, *shape) for shape in SHAPES]
        self.start = [p.expand(agents, *p.shape[1:]).float().contiguous() for p in drawn]

    def of(self, parameters: Tensors, agents: Any = slice(None)) -> torch.Tensor:
        """The loss of each row's model on the data of the agent of that row, in the parameters' precision."""
        first, bias, second, scale, shift = parameters
        inputs = self.inputs[self.now, agents].to(first.dtype)
        targets = self.targets[self.now, agents].to(first.dtype)
        hidden = torch.tanh(inputs @ first + bias[:, None])
        outputs = (1 + scale[:, None, None]) * (hidden @ second) + shift
        quartic = 0.02 * second.pow(4).sum((1, 2))
        return self.sign * ((outputs - targets).square().mean((1, 2)) + quartic)

    def gradient(self, agent: int, model: torch.Tensor) -> torch.Tensor:
        """Of `agent`'s loss at any model `[DIM]`, float64."""
        x = model.detach().clone().requires_grad_()
        parts = [
            part.reshape(1, *shape) for part, shape in zip(x.split(SIZES), SHAPES, strict=True)
        ]
        return torch.autograd.grad(self.of(parts, [agent]).sum(), x)[0]

    def parameters(self) -> Tensors:
        return [torch.nn.Parameter(p.clone()) for p in self.start]

    def closure(self, optimizer: Any, parameters: Tensors) -> Callable[[], torch.Tensor]:
        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self.of(parameters).sum()
            loss.backward()
            return loss

        return evaluate


def rows(tensors: Tensors) -> torch.Tensor:
    """Stacked tensors as one float64 row for each agent."""
    return torch.cat([t.detach().double().reshape(len(t), -1) for t in tensors], 1)


def groups(parameters: Tensors, **other: Any) -> tuple[list[Any], torch.Tensor, torch.Tensor]:
    """Two parameter groups, the second and fourth tensor learning otherwise, and the rates of each column."""
    eta, decay = torch.full((DIM,), RATE).double(), torch.full((DIM,), DECAY).double()
    for columns in (slice(15, 20), slice(30, 31)):
        eta[columns], decay[columns] = 0.03, 0.2
    second = {"params": [parameters[1], parameters[3]], "lr": 0.03, "weight_decay": 0.2, **other}
    return [{"params": [parameters[k] for k in (0, 2, 4)]}, second], eta, decay


def train(optimizer: Any, world: AgentLosses, parameters: Tensors, steps: int = STEPS) -> None:
    """On the data of each step, at a tenth of the rates from the middle on."""
    for world.now in range(steps):
        if world.now == steps // 2:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * group["lr"]
        optimizer.step(world.closure(optimizer, parameters))


def advance(oracle: Any, world: AgentLosses, noise: torch.Generator | None = None) -> None:
    """Train an oracle likewise; with `noise` its models are rounded at random after each step, as float32's are."""
    for world.now in range(STEPS):
        if world.now == DROP:
            oracle.eta = 0.1 * oracle.eta
        oracle.step()
        if noise is not None:
            drawn = torch.randn(oracle.x.shape, generator=noise).double()
            oracle.x.detach().mul_(1 + 6e-8 * drawn)


def follow(optimizer: Any, world: AgentLosses, parameters: Tensors, oracle: Any) -> None:
    start = rows(parameters)
    train(optimizer, world, parameters)
    advance(oracle, world)
    assert (oracle.x - start).abs().max() > 0.05
    close(rows(parameters), oracle.x)


def follow_well_conditioned(build: Callable[[int], Any], seed: int) -> None:
    """Follow the first of `build(seed)`, `build(seed + 1)`, ... that carries roundings no further than 2e-6.

    Where Adam meets a gradient near zero, or a push a distance near zero, float32 cannot follow float64.
    """
    noise = torch.Generator().manual_seed(seed)
    for attempt in range(30):
        work = build(seed + attempt)
        oracle, rounded = work.oracle(), work.oracle()
        advance(oracle, work.world)
        advance(rounded, work.world, noise)
        if (oracle.x - rounded.x).abs().max() <= 2e-6:
            train(work.optimizer, work.world, work.parameters)
            assert (oracle.x - rows(work.world.start)).abs().max() > 0.05
            return close(rows(work.parameters), oracle.x)
    raise AssertionError("thirty problems in a row are ill-conditioned")


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert expected.isfinite().all()
    assert ((got - expected).abs() / (1 + expected.abs())).max() <= tolerance
