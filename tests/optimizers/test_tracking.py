"""GradientTracking, MomentumTracking, D2, QGAdam, GUT and RelaySGD against float64 oracles, and what each promises."""

import warnings
from typing import Any

import networkx as nx
import pytest
import torch

import fastsaddle as fs
from tests.optimizers import tracking_oracles
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    GRAPHS,
    RATE,
    AgentLosses,
    close,
    follow_well_conditioned,
    groups,
    rows,
)
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot, twins

pytestmark = pytest.mark.usefixtures("one_thread")
NESTEROV = {"momentum": 0.9, "nesterov": True}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gt": ("GradientTracking", {}),
    "gt-damped": ("GradientTracking", {"consensus_step": 0.7, "momentum": 0.8}),
    "gt-nesterov": ("GradientTracking", NESTEROV),
    "gt-maximize": ("GradientTracking", {"maximize": True, "momentum": 0.5}),
    "mt": ("MomentumTracking", {"momentum": 0.9}),
    "mt-plain": ("MomentumTracking", {"momentum": 0.0, "consensus_step": 0.7}),
    "mt-maximize": ("MomentumTracking", {"momentum": 0.6, "maximize": True}),
    "d2": ("D2", {}),
    "d2-damped": ("D2", {"consensus_step": 0.6, "momentum": 0.8}),
    "d2-nesterov": ("D2", NESTEROV),
    "d2-maximize": ("D2", {"maximize": True, "consensus_step": 0.5}),
    "adam": ("QGAdam", {"lr": 0.01}),
    "adam-both": ("QGAdam", {"lr": 0.01, "quasi_global": "both"}),
    "adam-betas": (
        "QGAdam",
        {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "consensus_step": 0.7},
    ),
    "adam-maximize": (
        "QGAdam",
        {"lr": 0.01, "quasi_global": "both", "maximize": True, "eps": 1e-4, "betas": (0.6, 0.9)},
    ),
    "gut": ("GUT", {}),
    "gut-momentum": ("GUT", {"tracking": 0.06, "momentum": 0.9}),
    "gut-nesterov": ("GUT", {"tracking": 0.08, "consensus_step": 0.7, **NESTEROV}),
    "gut-maximize": ("GUT", {"tracking": 0.5, "maximize": True}),
    "relay": ("RelaySGD", {}),
    "relay-momentum": ("RelaySGD", {"momentum": 0.8}),
    "relay-nesterov": ("RelaySGD", NESTEROV),
    "relay-maximize": ("RelaySGD", {"maximize": True}),
}
each = pytest.mark.parametrize("name", METHODS)
ONE_OF_EACH = ("gt-nesterov", "mt", "d2-damped", "adam", "adam-both", "gut-momentum", "relay-momentum")  # fmt: skip
one_of_each = pytest.mark.parametrize("name", ONE_OF_EACH)
# vectors that travel to each neighbor in a step
SENT = {"GradientTracking": 2, "MomentumTracking": 2, "D2": 1, "QGAdam": 1, "GUT": 1, "RelaySGD": 1}


def oracle(
    name: str,
    options: dict[str, Any],
    world: AgentLosses,
    W: torch.Tensor,
    eta: torch.Tensor,
    decay: torch.Tensor,
) -> tracking_oracles.Agents:
    own = {k: v for k, v in options.items() if k in ("momentum", "nesterov", "consensus_step", "maximize")}  # fmt: skip
    made = getattr(tracking_oracles, name)(rows(world.start), W, world.gradient, eta, decay, **own)
    made.both = options.get("quasi_global") == "both"
    made.beta1, made.beta2 = options.get("betas", (0.9, 0.999))
    made.eps, made.tracking = options.get("eps", 1e-8), options.get("tracking", 0.9)
    return made


UNEVEN = ("gt-damped", "mt", "d2-damped", "adam", "adam-both", "gut-nesterov")


class Work:
    """One optimizer on its own copy of one problem."""

    def __init__(
        self, name: str, graph: str, seed: int, same: bool = False, grouped: bool = False
    ) -> None:
        self.method, options = METHODS[name]
        if self.method == "RelaySGD":
            graph = {"ring": "path", "kite": "broom"}[graph]
        self.topology, self.W, backend = GRAPHS[graph]
        self.options = {"lr": RATE, **options}
        sign = -1.0 if self.options.get("maximize") else 1.0
        self.world = AgentLosses(self.topology.agents, seed, same, sign)
        self.parameters = self.world.parameters()
        given: list[Any] = self.parameters
        self.eta = torch.full((DIM,), self.options["lr"]).double()
        self.decay = torch.full((DIM,), DECAY).double()
        if grouped:
            given, self.eta, self.decay = groups(self.parameters)
            self.options["lr"] = RATE
        self.optimizer = getattr(fs, self.method)(
            given,
            topology=self.topology,
            weight_decay=DECAY,
            backend=backend,
            **self.options,
        )

    def oracle(self) -> tracking_oracles.Agents:
        return oracle(self.method, self.options, self.world, self.W, self.eta, self.decay)

    def step(self, at: int) -> Any:
        self.world.now = at
        return self.optimizer.step(self.world.closure(self.optimizer, self.parameters))


@each
@pytest.mark.parametrize("graph", ["ring", "kite"])
def test_twenty_steps_with_a_drop(name: str, graph: str, seed: int) -> None:
    """From one start on the irregular graph, from independent ones on the ring."""
    follow_well_conditioned(lambda seed: Work(name, graph, seed, same=graph == "kite"), seed)


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_weights(name: str, seed: int) -> None:
    follow_well_conditioned(lambda seed: Work(name, "uneven", seed), seed)


@one_of_each
def test_two_groups(name: str, seed: int) -> None:
    """Other rates for two tensors; Adam's norms still are of the whole model."""
    follow_well_conditioned(lambda seed: Work(name, "kite", seed, grouped=True), seed)


@one_of_each
def test_one_ordinary_agent(name: str, seed: int) -> None:
    """Without a graph all but Adam and GUT are SGD; GUT's correction stays."""
    method, options = METHODS[name]
    world = AgentLosses(1, seed)
    parameters = [torch.nn.Parameter(p[0].clone()) for p in world.start]
    if method == "RelaySGD":
        options = {k: v for k, v in options.items() if k != "consensus_step"}
    options = {"lr": 0.02, **options}
    optimizer = getattr(fs, method)(parameters, weight_decay=DECAY, **options)
    eta = torch.full((DIM,), options["lr"]).double()
    decay = torch.full((DIM,), DECAY).double()
    W = torch.ones(1, 1).double()
    reference = oracle(method, options, world, W, eta, decay)
    for world.now in range(20):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = world.of([p[None] for p in parameters]).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        reference.step()
    assert optimizer.bytes_sent == 0
    close(rows([p[None] for p in parameters]), reference.x)


@one_of_each
@pytest.mark.parametrize("graph", ["ring", "kite"])
def test_bytes(name: str, graph: str, seed: int) -> None:
    work = Work(name, graph, seed)
    for step in range(3):
        work.step(step)
    messages, sent = 3 * work.topology.messages, work.optimizer.bytes_sent
    if work.method == "RelaySGD":
        # a count may come with the sum
        assert messages * 4 * DIM <= sent <= messages * (4 * DIM + 8)
    else:
        assert sent == messages * 4 * DIM * SENT[work.method]


class Quadratics:
    """F_i(x) = sum_k h_ik (x_k - b_ik)^2 / 2: other minimizers and other curvatures at each agent."""

    def __init__(self, agents: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.h = torch.rand(agents, 7, generator=draw).double() + 0.5
        self.b = torch.randn(agents, 7, generator=draw).double()
        self.optimum = (self.h * self.b).sum(0) / self.h.sum(0)

    def distance(self, method: str, topology: fs.Topology, steps: int, **options: Any) -> float:
        """Of the worst agent to the optimum of the sum, in the largest coordinate."""
        p = torch.nn.Parameter(torch.zeros(len(self.h), 7))
        optimizer = getattr(fs, method)([p], topology=topology, **options)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (self.h.float() * (p - self.b.float()).square()).sum() / 2
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        return float((p.detach().double() - self.optimum).abs().max())


EXACT: dict[str, tuple[str, dict[str, Any], fs.Topology]] = {
    "gt": ("GradientTracking", {"lr": 0.1}, GRAPHS["ring"][0]),
    "gt-irregular": ("GradientTracking", {"lr": 0.1, "consensus_step": 0.8}, GRAPHS["kite"][0]),
    "gt-momentum": ("GradientTracking", {"lr": 0.03, "momentum": 0.5}, GRAPHS["ring"][0]),
    "mt": ("MomentumTracking", {"lr": 0.02, "momentum": 0.8}, GRAPHS["ring"][0]),
    "mt-irregular": ("MomentumTracking", {"lr": 0.02, "momentum": 0.8}, GRAPHS["kite"][0]),
    "d2": ("D2", {"lr": 0.1}, GRAPHS["ring"][0]),
    "relay": ("RelaySGD", {"lr": 0.1}, GRAPHS["path"][0]),
    "relay-momentum": ("RelaySGD", {"lr": 0.03, "momentum": 0.5}, GRAPHS["broom"][0]),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_optimum_of_all_is_reached_where_gossip_stalls(case: str, seed: int) -> None:
    """At a constant rate, without noise: to 1e-5, where DSGD at the same rate stays away."""
    method, options, topology = EXACT[case]
    problem = Quadratics(topology.agents, seed)
    assert problem.distance(method, topology, 600, **options) <= 1e-5
    stalled = problem.distance("DSGD", topology, 600, lr=options["lr"])
    assert stalled > 5e-3


def test_d2_does_not_drift(seed: int) -> None:
    """Corrections sum to zero over all agents; roundings must not add up in them, step for step."""
    problem = Quadratics(5, seed)
    assert problem.distance("D2", GRAPHS["ring"][0], 2500, lr=0.1) <= 2e-5


@pytest.mark.parametrize("rate", [float, torch.tensor], ids=["float", "tensor"])
def test_d2_stays_at_its_solution_when_the_rate_changes(rate: Any) -> None:
    """The correction rests at the rate times a gradient: unscaled it would throw models off by 0.13."""
    c = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.0, 0.0])[:, None]
    p = torch.nn.Parameter(torch.zeros(8, 1))
    optimizer = fs.D2([p], lr=rate(0.1), topology="ring", consensus_step=0.5)
    for lr, steps in ((0.1, 300), (0.01, 50), (0.001, 50), (0.1, 50)):
        optimizer.param_groups[0]["lr"] = rate(lr)
        for _ in range(steps):
            optimizer.zero_grad()
            (0.5 * (p - c) ** 2).sum().backward()
            optimizer.step()
            assert steps == 300 or p.abs().max() <= 1e-6
        assert p.abs().max() <= 1e-6


BINARY = nx.balanced_tree(2, 2)
TREES = {
    "chain": nx.path_graph(5),
    "chain of two": nx.path_graph(2),
    "binary": BINARY,
    "star": nx.star_graph(4),
    "broom": nx.Graph([(0, 1), (1, 2), (2, 3), (2, 4), (2, 5)]),
}


@pytest.mark.parametrize("tree", TREES)
def test_relays_average_exactly_after_diameter_steps(tree: str, seed: int) -> None:
    """Of models that do not move, step t is the mean over what t hops bring, own values in place of the rest."""
    graph = nx.convert_node_labels_to_integers(TREES[tree])
    n, draw = len(graph), torch.Generator().manual_seed(seed)
    start = torch.randn(n, 33, generator=draw)
    p = torch.nn.Parameter(start.clone())
    optimizer = fs.RelaySGD([p], lr=0.1, topology=fs.topology.from_networkx(graph))
    far = dict(nx.all_pairs_shortest_path_length(graph))
    diameter = nx.diameter(graph)
    for step in range(1, diameter + 4):
        with torch.no_grad():
            p.copy_(start)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        for i in range(n):
            near = [start[j if far[i][j] <= step else i].double() for j in range(n)]
            assert (p[i].double() - torch.stack(near).mean(0)).abs().max() <= 1e-6
        if step >= diameter:
            mean = start.double().mean(0)
            assert (p.double() - mean).abs().max() <= 1e-6
        else:
            assert (p.double() - start.double().mean(0)).abs().max() > 1e-3


@pytest.mark.parametrize("tree", TREES)
def test_relays_agree_without_gradients(tree: str, seed: int) -> None:
    """Models that follow their messages come to one consensus and stay there."""
    graph = nx.convert_node_labels_to_integers(TREES[tree])
    draw = torch.Generator().manual_seed(seed)
    p = torch.nn.Parameter(torch.randn(len(graph), 33, generator=draw))
    topology = fs.topology.from_networkx(graph)
    optimizer = fs.RelaySGD([p], lr=0.1, topology=topology)
    low, high = p.detach().amin(0), p.detach().amax(0)
    for _ in range(150):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert (p - p.mean(0)).abs().max() <= 1e-6
    assert (p >= low - 1e-5).all() and (p <= high + 1e-5).all()


@pytest.mark.parametrize("name", ["relay", "relay-nesterov"])
def test_relays_need_a_tree(name: str, seed: int) -> None:
    for topology in ("ring", fs.topology.fully_connected(5), fs.topology.exponential(5)):
        parameters = AgentLosses(5, seed).parameters()
        with pytest.raises(ValueError, match="tree"):
            fs.RelaySGD(parameters, lr=0.1, topology=topology, **METHODS[name][1])


@pytest.mark.parametrize(
    ("topology", "gamma"),
    [
        (fs.topology.torus(4, 4), 1.0),
        (fs.topology.from_networkx(nx.complete_bipartite_graph(3, 3)), 0.95),
        (fs.topology.from_matrix([[0.2, 0.8], [0.8, 0.2]]), 1.0),
    ],
)
def test_d2_refuses_a_graph_on_which_it_diverges(
    topology: fs.Topology, gamma: float, seed: int
) -> None:
    method = fs.D2
    parameters = AgentLosses(topology.agents, seed).parameters()
    with pytest.raises(ValueError, match="above -1/3"):
        method(parameters, lr=0.1, topology=topology, consensus_step=gamma)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(parameters, lr=0.1, topology=topology, consensus_step=0.5)


def test_d2_warns_at_the_edge(seed: int) -> None:
    method = fs.D2
    for agents in (2, 4, 8):
        parameters = AgentLosses(agents, seed).parameters()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method(parameters, lr=0.1, topology="ring", consensus_step=0.9)
            if agents == 2:
                # its two agents average exactly: eigenvalues 1 and 0
                method(parameters, lr=0.1, topology="ring")
                continue
        with pytest.warns(RuntimeWarning, match="1/3"):
            method(parameters, lr=0.1, topology="ring")


def test_both_trackers_move_the_mean_alike(seed: int) -> None:
    """Without momentum corrections sum to zero over all agents: the mean takes the mean gradient."""
    world = AgentLosses(5, seed, same=True)
    means = []
    for name in ("GradientTracking", "MomentumTracking"):
        parameters = world.parameters()
        optimizer = getattr(fs, name)(parameters, lr=0.05, momentum=0.0, topology="ring")
        world.now = 0
        optimizer.step(world.closure(optimizer, parameters))
        means.append(rows(parameters).mean(0))
    assert (means[0] - means[1]).abs().max() <= 1e-6


def test_gut_takes_its_gradients_at_mixed_models(seed: int) -> None:
    """In the closure the parameters hold W~ x, afterwards the models before gossip again."""
    work = Work("gut-nesterov", "kite", seed)
    mixing = 0.3 * torch.eye(5).double() + 0.7 * work.W
    for step in range(3):
        work.world.now = step
        before, seen = rows(work.parameters), []

        def closure(seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(rows(work.parameters))
            return work.world.closure(work.optimizer, work.parameters)()

        work.optimizer.step(closure)
        assert len(seen) == 1
        assert (seen[0] - mixing @ before).abs().max() <= 2e-6


@one_of_each
def test_a_failure_changes_nothing(name: str, seed: int) -> None:
    work, twin = Work(name, "ring", seed), Work(name, "ring", seed)
    for step in range(2):
        work.step(step)
        twin.step(step)
    before = snapshot(work.optimizer, work.parameters)
    work.world.now = 2

    def interrupted() -> torch.Tensor:
        work.world.closure(work.optimizer, work.parameters)()
        raise KeyboardInterrupt

    def unlucky() -> torch.Tensor:
        work.optimizer.zero_grad()
        losses = work.world.of(work.parameters)
        factors = torch.ones_like(losses)
        factors[1] = torch.nan
        (losses * factors).sum().backward()
        return losses.sum()

    for closure, error in ((interrupted, KeyboardInterrupt), (unlucky, fs.NonFiniteGradientError)):
        with pytest.raises(error):
            work.optimizer.step(closure)
        assert equal(before, snapshot(work.optimizer, work.parameters))
    for step in range(2, 4):
        work.step(step)
        twin.step(step)
    after = snapshot(twin.optimizer, twin.parameters)
    assert equal(after, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize("name", ["gt-nesterov", "mt", "d2-damped", "adam", "relay"])
def test_a_rate_for_each_agent(name: str, seed: int) -> None:
    """One of them zero, then all, then as before: agent i's rate stands wherever its step has one."""
    work = Work(name, "ring", seed)
    n = work.topology.agents
    oracle, own = work.oracle(), torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])[:n]
    for step, rate in enumerate((0.02, 0.02, 0.0, 0.02)):
        work.optimizer.param_groups[0]["lr"] = rate * own
        oracle.eta = (rate * own).double()[:, None]
        work.step(step)
        oracle.step()
    close(rows(work.parameters), oracle.x)


@pytest.mark.parametrize("rate", [float, torch.tensor], ids=["float", "tensor"])
def test_gut_waits_at_rate_zero(rate: Any, seed: int) -> None:
    """It divides by rates: a step at zero changes nothing but the count, also the first."""
    work = Work("gut-nesterov", "kite", seed)
    oracle, data = work.oracle(), 0
    for lr in (0.0, 0.08, 0.08, 0.0, 0.0, 0.02, 0.02):
        work.optimizer.param_groups[0]["lr"] = rate(lr)
        before = rows(work.parameters)
        work.step(data)
        if lr:
            oracle.eta = torch.full((DIM,), lr).double()
            oracle.step()
            data += 1
        else:
            assert torch.equal(rows(work.parameters), before)
    close(rows(work.parameters), oracle.x)


@pytest.mark.parametrize("steps", [0, 2])
def test_gut_needs_one_rate(steps: int, seed: int) -> None:
    work = Work("gut", "ring", seed)
    for step in range(steps):
        work.step(step)
    before = snapshot(work.optimizer, work.parameters)
    kept = work.optimizer.param_groups[0]["lr"]
    work.optimizer.param_groups[0]["lr"] = torch.tensor([0.02, 0.01, 0.0, 0.03, 0.005])
    with pytest.raises(ValueError, match=r"GUT needs one lr for all agents, got \(5,\)"):
        work.step(steps)
    work.optimizer.param_groups[0]["lr"] = kept
    assert equal(before, snapshot(work.optimizer, work.parameters))


def test_gut_needs_its_closure(seed: int) -> None:
    work = Work("gut", "ring", seed)
    work.step(0)
    before = snapshot(work.optimizer, work.parameters)
    with pytest.raises((RuntimeError, ValueError), match="closure"):
        work.optimizer.step()
    assert equal(before, snapshot(work.optimizer, work.parameters))


@one_of_each
@pytest.mark.parametrize(("graph", "steps"), [("ring", 0), ("ring", 1), ("kite", 4)])
def test_state_goes_on_bit_for_bit(name: str, graph: str, steps: int, seed: int) -> None:
    """From before the first step, where some take another branch, and from later."""
    work, fresh = Work(name, graph, seed), Work(name, graph, seed + 1)
    for step in range(steps):
        work.step(step)
    for group in work.optimizer.param_groups:
        group["lr"] = 0.5 * group["lr"]
    reload(work.optimizer, work.parameters, fresh.optimizer, fresh.parameters)
    fresh.world = work.world
    for step in range(steps, steps + 4):
        work.step(step)
        fresh.step(step)
    assert all(map(torch.equal, work.parameters, fresh.parameters))


@one_of_each
def test_copies_step_like_the_original(name: str, seed: int) -> None:
    work = Work(name, "kite", seed)
    for step in range(4):
        work.step(step)
    copies = twins(work.optimizer)
    for step in range(4, 7):
        work.step(step)
        for optimizer, parameters in copies:
            optimizer.step(work.world.closure(optimizer, parameters))
    for optimizer, parameters in copies:
        assert all(map(torch.equal, work.parameters, parameters))
        assert optimizer.bytes_sent == work.optimizer.bytes_sent


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("QGAdam", {"quasi_global": "first"}, "quasi_global must be .*got 'first'"),
        ("QGAdam", {"betas": (1.0, 0.9)}, "beta"),
        ("QGAdam", {"betas": (0.9, -0.1)}, "beta"),
        ("QGAdam", {"eps": -1.0}, "eps must be .*got -1"),
        ("GUT", {"tracking": -0.5}, "tracking must be .*got -0.5"),
        ("GradientTracking", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1"),
        ("MomentumTracking", {"lr": -0.1}, "lr must be >= 0 and finite, got -0.1"),
        ("D2", {"consensus_step": 1.5}, r"consensus_step must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_options(method: str, options: dict[str, Any], message: str, seed: int) -> None:
    parameters = AgentLosses(5, seed).parameters()
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(ValueError, match=message):
        getattr(fs, method)(parameters, **{"lr": 0.1, "topology": "ring", **options})
    assert all(map(torch.equal, parameters, before))


def test_gut_counts_the_bytes_of_long_rows() -> None:
    """They are stepped piece by piece, after one exchange of them whole."""
    p = torch.nn.Parameter(torch.ones(4, 400_000))
    optimizer = fs.GUT([p], topology="ring")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.bytes_sent == 4 * 8 * 400_000


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [("GUT", "tracking", 0.5), ("GUT", "momentum", 0.5), ("QGAdam", "eps", 0.25)],
)
def test_numbers_may_be_one_an_agent(method: str, name: str, value: float) -> None:
    found = []
    for given in (value, torch.full((3,), value)):
        p = torch.nn.Parameter(torch.arange(30.0).reshape(3, 10))
        optimizer = getattr(fs, method)([p], lr=0.05, topology="ring", **{name: given})

        def closure(p: Any = p, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        found.append(p.detach())
    torch.testing.assert_close(*found)
