"""Laws that every gossip method keeps, whatever the graph, the models and the gradients."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastsaddle as fs
from fastsaddle.comm.base import Exchange
from fastsaddle.comm.stacked import StackedGossip
from fastsaddle.graphs.topology import Topology
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.shell import Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "dsgd": (fs.DSGD, {}),
    "dsgdm": (fs.DSGDm, {"momentum": 0.8, "nesterov": True}),
    "qgm": (fs.QGM, {"momentum": 0.9, "qg_momentum": 0.7}),
    "dsaddle": (fs.DSADDLe, {"rho": 0.1}),
    "qsaddle": (fs.QSADDLe, {"rho": 0.1, "momentum": 0.9, "nesterov": True}),
    "qsaddle-adaptive": (fs.QSADDLe, {"rho": 0.4, "adaptive": True}),
}
SHAPES = ((3, 5), (7,), (2, 33))
each_method = pytest.mark.parametrize("name", METHODS)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def graphs(draw: st.DrawFn) -> Topology:
    """Regular and irregular graphs, Metropolis weights and mixtures of permutations, 1 to 9 agents."""
    agents, seed = draw(st.integers(1, 9)), draw(seeds)
    kind = draw(st.sampled_from(["ring", "star", "exponential", "fully_connected", "matrix"]))
    if kind != "matrix":
        return fs.topology.parse(kind, agents)
    generator = torch.Generator().manual_seed(seed)
    W = torch.eye(agents, dtype=torch.float64)
    for _ in range(3):
        order = torch.randperm(agents, generator=generator)
        swap = torch.eye(agents, dtype=torch.float64)[order]
        share = 0.3 * torch.rand((), generator=generator).double()
        W = (1 - 2 * share) * W + share * (swap + swap.T)
    return fs.topology.from_matrix(W, allow_disconnected=True)


class Run:
    """Agents with quartic losses around their own targets, curved in their own directions."""

    def __init__(self, name: str, topology: Topology | None, problem: dict[str, Any], **more: Any):
        method, options = METHODS[name]
        self.problem = problem
        self.parameters = [torch.nn.Parameter(p.clone()) for p in problem["start"]]
        options = {"lr": 0.05, "weight_decay": 0.01, "topology": topology, **options, **more}
        self.optimizer = method(self.parameters, **options)

    def step(self) -> None:
        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            loss = torch.zeros(())
            for p, target, curve in zip(
                self.parameters, self.problem["targets"], self.problem["curves"], strict=True
            ):
                loss = loss + (0.5 * curve * (p - target).square() + 0.05 * p.pow(4)).sum()
            loss.backward()
            return loss

        self.optimizer.step(closure)

    def after(self, steps: int) -> torch.Tensor:
        for _ in range(steps):
            self.step()
        return torch.cat([p.detach().flatten(1) for p in self.parameters], dim=1)


def problem_of(
    agents: int, seed: int, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)

    def normal() -> list[torch.Tensor]:
        return [torch.randn(agents, *shape, generator=draw) for shape in shapes]

    return {"start": normal(), "targets": normal(), "curves": [c.abs() for c in normal()]}


def rows_of(problem: dict[str, Any], order: Any) -> dict[str, Any]:
    return {name: [t[order] for t in tensors] for name, tensors in problem.items()}


@given(topology=graphs(), seed=seeds, gamma=st.floats(0, 1), large=st.booleans())
@few
def test_mixing_keeps_the_mean(topology: Topology, seed: int, gamma: float, large: bool) -> None:
    communicator = StackedGossip(topology, gamma)
    if large:
        communicator.dense = True
    draw = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(topology.agents, 96, generator=draw)
    before = x.double()
    layout, squares = FlatLayout.pack([[(96,)]]), torch.zeros(topology.agents, 2).double()
    x = communicator.mix(x, Exchange(layout, {}, 0, torch.tensor(0), squares))
    assert (x.double().mean(0) - before.mean(0)).abs().max() <= 1e-6
    spread = x.double().var(0, correction=0).sum()
    assert spread <= before.var(0, correction=0).sum() * (1 + 1e-5)


@given(topology=graphs(), seed=seeds)
@few
@each_method
def test_a_step_moves_the_mean_by_the_mean_update(name: str, topology: Topology, seed: int) -> None:
    """Gossip leaves the mean alone: it goes where the means of unconnected agents' local steps go."""
    problem = problem_of(topology.agents, seed)
    loners = fs.topology.from_matrix(torch.eye(topology.agents), allow_disconnected=True)
    mixed, apart = (Run(name, graph, problem).after(1) for graph in (topology, loners))
    assert (mixed.double().mean(0) - apart.double().mean(0)).abs().max() <= 2e-6


@given(agents=st.integers(1, 6), seed=seeds)
@few
@each_method
def test_identity_matrix_gives_independent_runs(name: str, agents: int, seed: int) -> None:
    problem = problem_of(agents, seed)
    loners = fs.topology.from_matrix(torch.eye(agents), allow_disconnected=True)
    together = Run(name, loners, problem).after(4)
    for agent in range(agents):
        alone = Run(name, fs.topology.ring(1), rows_of(problem, slice(agent, agent + 1)))
        assert torch.equal(alone.after(4)[0], together[agent])
        plain = Run(name, None, rows_of(problem, slice(agent, agent + 1)))
        assert torch.equal(plain.after(4)[0], together[agent])


@given(topology=graphs(), seed=seeds, backend=st.sampled_from(["reference", "native"]))
@few
@pytest.mark.parametrize(("name", "plain"), [("dsaddle", "dsgd"), ("qsaddle", "qgm")])
def test_without_radius_it_is_the_plain_method(
    name: str, plain: str, topology: Topology, seed: int, backend: str
) -> None:
    problem = problem_of(topology.agents, seed)
    same = {"momentum": 0.9, "nesterov": True} if plain == "qgm" else {}
    options = {"backend": backend, "qg_momentum": None, **same} if same else {"backend": backend}
    sharp = Run(name, topology, problem, rho=0.0, **options).after(5)
    assert torch.equal(sharp, Run(plain, topology, problem, **options).after(5))


@given(topology=graphs(), seed=seeds)
@few
@each_method
def test_order_of_agents_does_not_matter(name: str, topology: Topology, seed: int) -> None:
    problem = problem_of(topology.agents, seed)
    order = torch.randperm(topology.agents, generator=torch.Generator().manual_seed(seed))
    W = topology.W[order][:, order]
    renamed = fs.topology.from_matrix(W, allow_disconnected=True)
    straight = Run(name, topology, problem).after(5)
    permuted = Run(name, renamed, rows_of(problem, order)).after(5)
    assert (permuted - straight[order]).abs().max() <= 1e-5


def assert_equal_bits(name: str, topology: Topology, problem: dict[str, Any]) -> None:
    runs = []
    for backend, threads in (("reference", 1), ("native", 1), ("native", 2), ("reference", 2)):
        torch.set_num_threads(threads)
        try:
            run = Run(name, topology, problem, backend=backend)
            runs.append((run.after(4), *run.optimizer.flat_state.values()))
        finally:
            torch.set_num_threads(1)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@given(topology=graphs(), seed=seeds)
@few
@each_method
def test_backends_and_threads_give_equal_bits(name: str, topology: Topology, seed: int) -> None:
    assert_equal_bits(name, topology, problem_of(topology.agents, seed))


@each_method
def test_equal_bits_over_many_tiles(name: str, seed: int) -> None:
    shapes = ((151, 131), (3,), (1009,))
    assert_equal_bits(name, fs.topology.torus(3, 4), problem_of(12, seed, shapes))


@given(agents=st.integers(2, 9), seed=seeds)
@few
@pytest.mark.parametrize("name", ["dsgd", "dsgdm"])
def test_averaging_is_sgd_on_the_mean_gradient(name: str, agents: int, seed: int) -> None:
    """With W = 11^T / n from equal starts: momentum is linear in gradients, so local momentum averages too."""
    problem = problem_of(agents, seed)
    problem["start"] = [p[:1].expand_as(p) for p in problem["start"]]
    run = Run(name, fs.topology.fully_connected(agents), problem)
    center = [torch.nn.Parameter(p[0].double()) for p in problem["start"]]
    sgd = torch.optim.SGD(center, lr=0.05, weight_decay=0.01, **METHODS[name][1])
    for _ in range(6):
        run.step()
        for p, target, curve in zip(center, problem["targets"], problem["curves"], strict=True):
            pulls = curve.double() * (p - target.double()) + 0.2 * p.pow(3)
            p.grad = pulls.detach().mean(0)
        sgd.step()
    for p, q in zip(run.parameters, center, strict=True):
        assert (p.double() - q).abs().max() <= 2e-6
