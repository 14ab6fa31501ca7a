"""CHOCO gossip against a float64 oracle, written here from the published equations.

Koloskova et al. 2019 (arXiv:1902.00340, arXiv:1907.09356), Aketi et al. 2024 (arXiv:2404.05919); gradients, graphs and
hyperparameters are those of test_trajectories.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Compressor, Payload
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.optimizers.test_trajectories import (
    GRAPHS,
    METHODS,
    SHAPES,
    Problem,
    metropolis,
    rows,
    run,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE, DIM, SIZES = 2e-5, 44, (20, 5, 15, 1, 3)
STEPS, DROP, GAMMA = 20, 10, 0.6
ORDERS = ("compress-then-mix", "mix-then-compress")
Map = Callable[[torch.Tensor], torch.Tensor]
each_order = pytest.mark.parametrize("order", ORDERS)
# on a ring one group, on a lollipop two
each_graph = pytest.mark.parametrize("graph", ["ring", "lollipop"])


@dataclass(frozen=True)
class Own(Compressor):
    """A user's own: each tensor times a factor between two, smooth in its mean square; padding is sent too."""

    least: float = 0.5
    most: float = 0.9

    def of(self, t: torch.Tensor) -> torch.Tensor:
        """One tensor of all agents, `[agents, elements]`, in its own precision."""
        size = t.square().mean(1, keepdim=True)
        return t * (self.least + (self.most - self.least) * torch.tanh(size))

    def encode(
        self,
        x: torch.Tensor,
        seed: int = 0,
        step: int | torch.Tensor = 0,
        *,
        layout: FlatLayout | None = None,
        first_agent: int = 0,
    ) -> Payload:
        assert layout is not None and x.shape[1] == layout.stride
        values = torch.zeros_like(x, memory_format=torch.contiguous_format)
        for value, tensor in zip(layout.views(values), layout.views(x), strict=True):
            value.copy_(self.of(tensor.reshape(len(x), -1)).view_as(value))
        return Payload((x.shape[0], x.shape[1]), layout, {"values": values})

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        out += weight * payload.parts["values"]

    def wire_bytes(self, dim: int) -> int:
        return 4 * dim

    def delta(self, dim: int) -> float:
        return 1 - (1 - self.least) ** 2


class Oracle:
    """Agents with public copies, `[agents, 44]` float64; s is the weighted sum of the neighbors' copies."""

    def __init__(self, name: str, problem: Problem, W: torch.Tensor, Q: Map, order: str) -> None:
        self.method, self.options = METHODS[name]
        self.gradient, self.W, self.Q, self.order = problem.gradient, W, Q, order
        self.gamma, self.adaptive, self.number = GAMMA, False, 0
        # what float32 agents start from
        self.x = rows([p.float() for p in problem.start])
        self.x_hat, self.s, self.v, self.buffer = (torch.zeros_like(self.x) for _ in range(4))
        self.t = self.q = self.x_hat

    def step(self, eta: torch.Tensor, decay: torch.Tensor, rho: torch.Tensor | None) -> None:
        """One step; rates for each column."""
        beta = self.options.get("momentum", 0.0)
        mu = self.options.get("qg_momentum", beta)
        g = self.gradient(self.x) if rho is None else self.sharp_gradient(rho)
        g = g + decay * self.x
        m = beta * self.buffer + g
        h = self.x - eta * (g + beta * m if self.options.get("nesterov") else m)
        self.number += 1
        if self.order == "compress-then-mix":
            self.publish(h)
            after = h + self.pull()
        else:
            after = h + self.pull()
            self.publish(after)
        if issubclass(self.method, fs.DSGDm):
            self.buffer = m
        elif issubclass(self.method, (fs.QGM, fs.QSADDLe)):
            self.buffer = mu * self.buffer + (1 - mu) * (self.x - after) / eta
        self.x = after

    def sharp_gradient(self, rho: torch.Tensor) -> torch.Tensor:
        g = self.gradient(self.x)
        size, scale = g, torch.ones_like(g)
        if self.options.get("adaptive"):
            size, scale = self.x.abs() * g, self.x.square()
        norm = size.norm(dim=1, keepdim=True) + 1e-12
        return self.gradient(self.x + rho * scale * g / norm)

    def publish(self, model: torch.Tensor) -> None:
        self.t = model - self.x_hat
        self.q = self.Q(self.t)
        self.x_hat = self.x_hat + self.q
        self.s = self.s + (self.W - self.W.diag().diag()) @ self.q

    def pull(self) -> torch.Tensor:
        r = self.s + (self.W.diag()[:, None] - 1) * self.x_hat
        if not self.adaptive:
            return self.gamma * r
        self.v = 0.999 * self.v + 0.001 * r.square()
        root = (self.v / (1 - 0.999**self.number)).sqrt()
        return r * (self.gamma / (root + 1e-8)).clamp(max=1)


def tensorwise(Q: Map) -> Map:
    return lambda t: torch.cat([Q(part) for part in t.split(SIZES, 1)], 1)


class Pair:
    """An optimizer and its oracle on one problem."""

    def __init__(self, name: str, graph: str, choco: fs.Choco, Q: Map, seed: int) -> None:
        method, options = METHODS[name]
        topology, edges, groups, _ = GRAPHS[graph]
        self.problem = Problem(topology.agents, seed)
        W = metropolis(edges, topology.agents)
        self.oracle = Oracle(name, self.problem, W, Q, choco.order)
        self.oracle.adaptive = choco.adaptive
        self.parameters: list[torch.Tensor] = [
            torch.nn.Parameter(p.float()) for p in self.problem.start
        ]
        self.eta, self.decay = torch.full((DIM,), 0.08).double(), torch.full((DIM,), 1e-2).double()
        self.rho = torch.full((DIM,), options["rho"]).double() if "rho" in options else None
        given: list[Any] = self.parameters
        if groups == 2:
            # the second and the fourth tensor learn otherwise than the rest
            first, second = ([self.parameters[k] for k in which] for which in ((0, 2, 4), (1, 3)))
            given = [{"params": first}, {"params": second, "lr": 0.03, "weight_decay": 0.2}]
            for columns in (slice(20, 25), slice(40, 41)):
                self.eta[columns], self.decay[columns] = 0.03, 0.2
        self.optimizer = method(
            given,
            lr=0.08,
            topology=topology,
            weight_decay=1e-2,
            compressor=choco,
            consensus_step=GAMMA,
            **options,
        )

    def step(self) -> None:
        run(self.optimizer, self.problem, self.parameters)
        self.oracle.step(self.eta, self.decay, self.rho)

    def drop(self) -> None:
        self.eta = 0.1 * self.eta
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 * group["lr"]

    def state(self, name: str) -> torch.Tensor:
        return rows([self.optimizer.state[p][name] for p in self.parameters])

    def follow(self) -> None:
        """The oracle goes on from where the optimizer is."""
        self.oracle.x, self.oracle.x_hat = rows(self.parameters), self.state("x_hat")
        self.oracle.s = (self.oracle.W - self.oracle.W.diag().diag()) @ self.oracle.x_hat
        if self.optimizer.rule.ascent_state is not None:
            self.oracle.buffer = self.state(self.optimizer.rule.ascent_state)

    def compare(self, columns: torch.Tensor | None = None) -> None:
        """Models, copies, momentum to what it can move a model by; squares where all columns are compared."""
        chosen = torch.ones(DIM, dtype=torch.bool) if columns is None else columns
        pairs = [(rows(self.parameters), self.oracle.x), (self.state("x_hat"), self.oracle.x_hat)]
        if self.optimizer.rule.ascent_state is not None:
            held = self.state(self.optimizer.rule.ascent_state)
            pairs.append((held * self.eta, self.oracle.buffer * self.eta))
        for got, expected in pairs:
            assert (got - expected)[:, chosen].abs().max() <= TOLERANCE
        if columns is None:
            lengths = torch.stack([self.oracle.t, self.oracle.q - self.oracle.t]).norm(dim=2).T
            roots = self.optimizer.squares.sqrt()
            assert (roots - lengths).abs().max() <= TOLERANCE * DIM**0.5


@each_order
@each_graph
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_with_a_drop(name: str, graph: str, order: Any, seed: int) -> None:
    own = Own()
    assert list(SIZES) == [torch.Size(shape).numel() for shape in SHAPES]
    pair = Pair(name, graph, fs.Choco(own, order), tensorwise(own.of), seed)
    start = pair.oracle.x
    for step in range(STEPS):
        pair.drop() if step == DROP else None
        pair.step()
    assert (pair.oracle.x - start).abs().max() > 0.1
    pair.compare()


OPTIONS: dict[str, tuple[Own, dict[str, bool]]] = {
    "half": (Own(0.5, 0.5), {}),
    "running-sum": (Own(), {"running_sum": True}),
    "adaptive": (Own(), {"adaptive": True}),
    "adaptive-running-sum": (Own(), {"adaptive": True, "running_sum": True}),
}


@each_order
@each_graph
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["dsgdm", "qsaddle-adaptive"])
def test_options(name: str, option: str, graph: str, order: Any, seed: int) -> None:
    own, more = OPTIONS[option]
    pair = Pair(name, graph, fs.Choco(own, order, **more), tensorwise(own.of), seed)
    for step in range(STEPS):
        pair.drop() if step == DROP else None
        pair.step()
    pair.compare()
    for key, expected in (("weighted_sum", pair.oracle.s), ("pull_square", pair.oracle.v)):
        if key in pair.optimizer.flat_state:
            assert (pair.state(key) - expected).abs().max() <= TOLERANCE
    if option == "half":
        sent, lost = pair.optimizer.squares.T
        assert torch.allclose(lost, 0.25 * sent, rtol=1e-5)
