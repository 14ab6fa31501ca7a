"""Every optimizer against float64 oracles, written here from the published equations (ALGORITHM names below).

Lian et al. 2017 (arXiv:1705.09056), Lin et al. 2021 (arXiv:2102.04761), Foret et al. 2020 (arXiv:2010.01412),
Kwon et al. 2021 (arXiv:2102.11600), Choudhary et al. 2024 (arXiv:2405.13961).
"""

from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch

import fastsaddle as fs
from fastsaddle.optimizer.shell import Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 2e-5
STEPS, DROP = 20, 10
# one agent's shapes: odd sizes, and a number without dimensions
SHAPES = ((4, 5), (5,), (5, 3), (), (1, 3))
DIM = 44
Tensors = list[torch.Tensor]
Gradient = Callable[[torch.Tensor], torch.Tensor]

METHODS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "dsgd": (fs.DSGD, {}),
    "dsgdm": (fs.DSGDm, {"momentum": 0.9}),
    "dsgdm-nesterov": (fs.DSGDm, {"momentum": 0.8, "nesterov": True}),
    "qgm": (fs.QGM, {"momentum": 0.9}),
    "qgm-nesterov": (fs.QGM, {"momentum": 0.9, "nesterov": True}),
    "qgm-mu": (fs.QGM, {"momentum": 0.9, "qg_momentum": 0.6}),
    "dsaddle": (fs.DSADDLe, {"rho": 0.05}),
    "dsaddle-adaptive": (fs.DSADDLe, {"rho": 0.5, "adaptive": True}),
    "qsaddle": (fs.QSADDLe, {"rho": 0.05, "momentum": 0.9}),
    "qsaddle-nesterov": (fs.QSADDLe, {"rho": 0.1, "momentum": 0.9, "nesterov": True}),
    "qsaddle-adaptive": (
        fs.QSADDLe,
        {"rho": 0.5, "adaptive": True, "momentum": 0.85, "qg_momentum": 0.95, "nesterov": True},
    ),
}
LOLLIPOP = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (3, 4), (4, 5), (5, 6)]
TORUS = [
    (4 * r + c, to)
    for r in range(3)
    for c in range(4)
    for to in (4 * r + (c + 1) % 4, (4 * r + c + 4) % 12)
]
# topology, its edges, number of parameter groups, whether a scheduler lowers the learning rate
GRAPHS: dict[str, tuple[fs.Topology, list[tuple[int, int]], int, bool]] = {
    "ring": (fs.topology.ring(5), [(i, (i + 1) % 5) for i in range(5)], 1, False),
    "torus": (fs.topology.torus(3, 4), TORUS, 2, False),
    "lollipop": (fs.topology.from_networkx(nx.Graph(LOLLIPOP)), LOLLIPOP, 2, True),
    "full": (
        fs.topology.fully_connected(70),
        [(i, j) for i in range(70) for j in range(i)],
        1,
        True,
    ),
}
BACKENDS = ("reference", "native")


class Problem:
    """A small tanh network an agent, each on its own data: smooth, not convex, different for all agents."""

    def __init__(self, agents: int, seed: int, sign: float = 1.0) -> None:
        self.sign = sign
        self.draw = torch.Generator().manual_seed(seed)
        self.agents = agents
        self.inputs = self.normal(agents, 6, 4) + 0.5 * self.normal(agents, 1, 4)
        self.targets = self.normal(agents, 6, 3) + self.normal(agents, 1, 3)
        self.start = [0.5 * self.normal(agents, *shape) for shape in SHAPES]

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.draw).double()

    def losses(self, parameters: Tensors) -> torch.Tensor:
        """Of each agent, in the parameters' precision."""
        first, bias, second, scale, shift = parameters
        inputs, targets = self.inputs.to(first.dtype), self.targets.to(first.dtype)
        hidden = torch.tanh(inputs @ first + bias[:, None])
        outputs = (1 + scale[:, None, None]) * (hidden @ second) + shift
        quartic = second.pow(4).sum((1, 2))
        return self.sign * ((outputs - targets).square().mean((1, 2)) + 0.02 * quartic)

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        """Every agent's gradient at rows `x` `[agents, 44]`, float64."""
        x = x.clone().requires_grad_()
        sizes = [torch.Size(shape).numel() for shape in SHAPES]
        parts = x.split(sizes, dim=1)
        parameters = [p.reshape(-1, *shape) for p, shape in zip(parts, SHAPES, strict=True)]
        return torch.autograd.grad(self.losses(parameters).sum(), x)[0]


def rows(tensors: Tensors) -> torch.Tensor:
    return torch.cat(
        [
            t.detach().double().flatten(1) if t.dim() > 1 else t.detach().double()[:, None]
            for t in tensors
        ],
        1,
    )


def metropolis(edges: list[tuple[int, int]], agents: int) -> torch.Tensor:
    """W_ij = 1 / (max(d_i, d_j) + 1) on edges, the rest of each row on the diagonal."""
    degree = [sum(i in edge for edge in edges) for i in range(agents)]
    W = torch.zeros(agents, agents, dtype=torch.float64)
    for i, j in edges:
        W[i, j] = W[j, i] = 1 / (max(degree[i], degree[j]) + 1)
    return W + (1 - W.sum(1)).diag()


def oracle(
    method: type[Optimizer],
    options: dict[str, Any],
    x: torch.Tensor,
    gradient: Gradient,
    W: torch.Tensor,
    rates: list[Any],
    weight_decay: Any = 0.0,
    rho: Any = None,
    gamma: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Models and momentum after one step for each of `rates`; numbers may be rows or columns of tensors."""
    beta = options.get("momentum", 0.0)
    mu = options.get("qg_momentum", beta)
    ascent = -1.0 if options.get("maximize") else 1.0
    rho = options.get("rho") if rho is None else rho
    buffer = torch.zeros_like(x)
    for eta in rates:
        g = gradient(x)
        if rho is not None and options.get("adaptive"):
            size = (x.abs() * g).norm(dim=1, keepdim=True)
            g = gradient(x + ascent * rho * x.square() * g / (size + 1e-12))
        elif rho is not None:
            g = gradient(x + ascent * rho * g / (g.norm(dim=1, keepdim=True) + 1e-12))
        g = ascent * g + weight_decay * x
        m = beta * buffer + g
        h = x - eta * (g + beta * m if options.get("nesterov") else m)
        mixed = h + gamma * (W @ h - h)
        if issubclass(method, fs.DSGDm):
            buffer = m
        elif issubclass(method, (fs.QGM, fs.QSADDLe)):
            eta = torch.as_tensor(eta, dtype=torch.float64).expand_as(x)
            moved = mu * buffer + (1 - mu) * (x - mixed) / eta
            buffer = torch.where(eta == 0, buffer, moved)
        x = mixed
    return x, buffer


def close(
    optimizer: Optimizer,
    parameters: Tensors,
    expected: tuple[torch.Tensor, torch.Tensor],
    eta: Any,
) -> None:
    """Models within the tolerance, and momentum to what it can move a model by."""
    x, buffer = expected
    assert (rows(parameters) - x).abs().max() <= TOLERANCE
    if optimizer.rule.ascent_state is not None:
        held = rows([optimizer.state[p][optimizer.rule.ascent_state] for p in parameters])
        assert ((held - buffer) * eta).abs().max() <= TOLERANCE


def run(optimizer: Optimizer, problem: Problem, parameters: Tensors) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = problem.losses(parameters).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_with_a_drop(name: str, graph: str, backend: str, seed: int) -> None:
    method, options = METHODS[name]
    topology, edges, groups, scheduled = GRAPHS[graph]
    problem = Problem(topology.agents, seed)
    parameters: Tensors = [torch.nn.Parameter(p.float()) for p in problem.start]
    start = rows(parameters)
    eta, decay, rho = torch.full((DIM,), 0.08).double(), torch.full((DIM,), 1e-2).double(), None
    if "rho" in options:
        rho = torch.full((DIM,), options["rho"]).double()
    given: list[Any] = parameters
    if groups == 2:
        # the second and the fourth tensor learn otherwise than the rest
        other = {"lr": 0.03, "weight_decay": 0.2, **({"rho": 0.4} if rho is not None else {})}
        given = [
            {"params": [parameters[k] for k in (0, 2, 4)]},
            {"params": [parameters[k] for k in (1, 3)], **other},
        ]
        for columns in (slice(20, 25), slice(40, 41)):
            eta[columns], decay[columns] = 0.03, 0.2
            if rho is not None:
                rho[columns] = 0.4
    optimizer = method(
        given, lr=0.08, topology=topology, weight_decay=1e-2, backend=backend, **options
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [DROP], gamma=0.1)
    for step in range(STEPS):
        if step == DROP and not scheduled:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * group["lr"]
        run(optimizer, problem, parameters)
        if scheduled:
            scheduler.step()
    rates = [eta] * DROP + [0.1 * eta] * (STEPS - DROP)
    W = metropolis(edges, topology.agents)
    expected = oracle(method, options, start, problem.gradient, W, rates, decay, rho)
    assert (expected[0] - start).abs().max() > 0.1
    close(optimizer, parameters, expected, 0.1 * eta)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", METHODS)
def test_rates_as_tensors(name: str, backend: str, seed: int) -> None:
    """A rate for each agent, then a 0-d tensor that falls to zero and comes back; half a gossip step, maximizing."""
    method, options = METHODS[name]
    options = {**options, "maximize": True}
    problem = Problem(5, seed, sign=-1.0)
    parameters: Tensors = [torch.nn.Parameter(p.float()) for p in problem.start]
    start = rows(parameters)
    own = torch.tensor([0.02, 0.01, 0.0, 0.03, 0.005])
    optimizer = method(
        parameters,
        lr=own,
        topology="ring",
        weight_decay=1e-2,
        consensus_step=0.4,
        backend=backend,
        **options,
    )
    shared, rates = torch.tensor(0.02), []
    for step in range(STEPS):
        if step == DROP:
            optimizer.param_groups[0]["lr"] = shared
        if step in (DROP + 3, DROP + 6):
            shared.fill_(0.0 if step == DROP + 3 else 0.01)
        before = rows(parameters), {k: v.clone() for k, v in optimizer.flat_state.items()}
        run(optimizer, problem, parameters)
        rates.append(own.double()[:, None] if step < DROP else float(shared))
        if DROP + 3 <= step < DROP + 6:
            W = 0.6 * torch.eye(5).double() + 0.4 * metropolis(
                [(i, (i + 1) % 5) for i in range(5)], 5
            )
            assert (rows(parameters) - W @ before[0]).abs().max() < 1e-6
            assert (rows(parameters) - before[0]).abs().max() > 1e-4
            if method is not fs.DSGDm:
                assert all(torch.equal(v, before[1][k]) for k, v in optimizer.flat_state.items())
    W = metropolis([(i, (i + 1) % 5) for i in range(5)], 5)
    expected = oracle(method, options, start, problem.gradient, W, rates, 1e-2, gamma=0.4)
    close(optimizer, parameters, expected, 0.01)
