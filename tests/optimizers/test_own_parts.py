"""Rules, gradients, communicators and optimizers of one's own: the examples, and classes from any file."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fastsaddle as fs
from tests.optimizers import tracking_oracles
from tests.optimizers.agent_losses import AgentLosses, train
from tests.optimizers.combination_oracles import Copies
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot, twins
from tests.optimizers.test_combinations import GAMMA, OWN, Case, Work, follow

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = Path(__file__).parents[2] / "examples" / "own_methods"


def load(path: Path) -> ModuleType:
    """The module of a file, found by its name as pickles need it."""
    specification = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


DecentLaM = load(EXAMPLES / "decentlam.py").DecentLaM
ExactDiffusion = load(EXAMPLES / "exact_diffusion.py").ExactDiffusion


class DecentLaMOracle(tracking_oracles.Agents):
    first: Copies

    def update(self) -> None:
        direction = (self.x - self.first(self.x - self.eta * self.g(self.x))) / self.eta
        self.m = self.beta * self.m + direction
        self.x = self.x - self.eta * self.m


class ExactDiffusionOracle(tracking_oracles.Agents):
    first: Copies

    def begin(self) -> None:
        self.before: Any = None

    def update(self) -> None:
        psi = self.x - self.eta * self.g(self.x)
        phi = psi if self.before is None else psi + self.x - self.before
        self.x, self.before = (phi + self.first(phi)) / 2, psi


METHODS = {
    "decentlam": Case(
        lambda: DecentLaM(momentum=0.8), DecentLaMOracle, {"momentum": 0.8}, mixes=("first",)
    ),
    "exact diffusion": Case(ExactDiffusion, ExactDiffusionOracle, mixes=("first",)),
}
METHODS |= {
    f"{name}, compressed": Case(
        case.rule,
        case.oracle,
        case.options,
        mixes=("first",),
        communicator=lambda graph: fs.comm.Gossip(graph, OWN, GAMMA),
        gamma=GAMMA,
        Q=OWN,
    )
    for name, case in METHODS.items()
}


@pytest.mark.parametrize("sam", ["plain", "sam"])
@pytest.mark.parametrize("method", METHODS)
def test_examples_follow_their_equations(method: str, sam: str, seed: int) -> None:
    follow(lambda seed: Work(METHODS[method], sam, "ring", seed), seed)


def test_an_example_in_two_groups(seed: int) -> None:
    for method in ("decentlam", "exact diffusion"):
        follow(lambda s, m=method: Work(METHODS[m], "plain", "kite", s, grouped=True), seed)


class Quadratics:
    """F_i(x) = sum_k h_ik (x_k - b_ik)^2 / 2, on a ring of six."""

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.h = torch.rand(6, 7, generator=draw).double() + 0.5
        self.b = torch.randn(6, 7, generator=draw).double()
        self.optimum = (self.h * self.b).sum(0) / self.h.sum(0)

    def end(self, steps: int, **options: Any) -> torch.Tensor:
        """The models after so many steps from zero."""
        p = torch.nn.Parameter(torch.zeros(6, 7))
        optimizer = fs.Optimizer([p], communicator=fs.comm.Gossip("ring"), **options)
        for _ in range(steps):
            p.grad = (self.h.float() * (p.detach() - self.b.float())).clone()
            optimizer.step()
        return p.detach().double()

    def rest(self, lr: float) -> torch.Tensor:
        """Where DSGD rests: x = W (x - lr grad), a linear equation for each coordinate."""
        W, eye = fs.topology.ring(6).W, torch.eye(6).double()
        found = [
            torch.linalg.solve(eye - W @ (eye - lr * h.diag()), lr * W @ (h * b))
            for h, b in zip(self.h.T, self.b.T, strict=True)
        ]
        return torch.stack(found, 1)

    def bias(self, x: torch.Tensor) -> float:
        return float((x - self.optimum).norm())


def test_exact_diffusion_reaches_the_optimum(seed: int) -> None:
    """Where DSGD at the same rate stays away; and corrections do not drift."""
    problem = Quadratics(seed)
    for steps in (800, 2500):
        end = problem.end(steps, rule=ExactDiffusion(), lr=0.1)
        assert (end - problem.optimum).abs().max() <= 1e-5
    assert problem.bias(problem.rest(0.1)) > 1e-2


def test_exact_diffusion_is_d2_with_half_a_gossip(seed: int) -> None:
    """At a constant rate, as both papers' equations say."""
    problem = Quadratics(seed)
    own = problem.end(20, rule=ExactDiffusion(), lr=0.1)
    p = torch.nn.Parameter(torch.zeros(6, 7))
    d2 = fs.D2([p], lr=0.1, topology="ring", consensus_step=0.5)
    for _ in range(20):
        p.grad = (problem.h.float() * (p.detach() - problem.b.float())).clone()
        d2.step()
    assert (own - p.detach().double()).abs().max() <= 1e-5


def test_decentlam_has_the_bias_of_dsgd(seed: int) -> None:
    """Momentum adds nothing to it, where DSGDm has that of DSGD at lr / (1 - momentum)."""
    problem = Quadratics(seed)
    momentum = fs.rules.Momentum("local", 0.8)
    own = problem.end(800, rule=DecentLaM(momentum=0.8), lr=0.05)
    heavy = problem.end(800, rule=momentum, lr=0.05)
    assert (own - problem.rest(0.05)).abs().max() <= 1e-5
    assert (heavy - problem.rest(0.25)).abs().max() <= 1e-5
    assert problem.bias(own) < 0.5 * problem.bias(heavy)


def test_examples_are_short_and_named() -> None:
    for rule, name in ((DecentLaM, "DecentLaM"), (ExactDiffusion, "exact diffusion")):
        assert rule().name == name
        p = torch.nn.Parameter(torch.zeros(4, 2))
        options = {"rule": rule(), "communicator": fs.comm.Gossip("ring", every=1)}
        assert fs.Optimizer([p], **options).who == name
        with pytest.raises(ValueError, match="takes"):
            rule(beta=0.9)
    for path in EXAMPLES.glob("*.py"):
        _, _, body = path.read_text().partition("class ")
        assert len(body.splitlines()) <= 15
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\)"):
        DecentLaM(momentum=1.5)


# -- gradients, communicators and optimizers

SOURCE = '''
import torch

import fastsaddle as fs


class Clipped(fs.gradients.Gradient):
    """Each agent's gradient, at most so long."""

    hyperparameters = {"longest": fs.rules.Range(0, float("inf"), default=0.5)}

    def found(self, optimizer):
        found = super().found(optimizer)
        longest = optimizer.scalar(0, "longest")
        optimizer.rows.g.mul_((longest / (found.norm + 1e-12)).clamp(max=1)[:, None])
        return found


class Noisy(fs.gradients.Gradient):
    """The gradient and noise, drawn by the steps done."""

    states = (fs.rules.ROUND,)

    def take(self, optimizer, closure, passes=None):
        loss = super().take(optimizer, closure)
        optimizer.collect()
        draw = torch.Generator().manual_seed(int(optimizer.rounds))
        optimizer.rows.g.add_(0.1 * torch.randn(optimizer.rows.g.shape, generator=draw))
        return loss


class Pairs(fs.comm.Communicator):
    """Random pairs meet in their mean, other ones in each step."""

    shared_states = (fs.rules.ROUND,)

    def __init__(self, agents):
        self.agents = agents

    def mix(self, x, exchange):
        draw = torch.Generator().manual_seed(int(exchange.number))
        one, other = torch.randperm(self.agents, generator=draw).view(2, -1)
        mixed = x.clone()
        mixed[one] = mixed[other] = (x[one] + x[other]) / 2
        exchange.nbytes += 4 * exchange.layout.dim * self.agents
        return mixed


class Late(fs.comm.Communicator):
    """Half of the mean of what all sent a step ago."""

    states = (fs.rules.State("x_sent"),)

    def __init__(self, agents):
        self.agents = agents

    def mix(self, x, exchange):
        sent = exchange.states["x_sent"]
        mixed = (x + sent.mean(0)) / 2
        sent.copy_(x)
        return mixed


class Mine(fs.Optimizer):
    """Sign descent on a ring."""

    class Rule(fs.rules.Rule):
        def step(self, rows, comm):
            rows.x.copy_(comm.mixed(rows.x - rows.lr * rows.g.sign()))

    def __init__(self, params, lr=0.01):
        super().__init__(params, lr, rule=self.Rule(), communicator=fs.comm.Gossip("ring"))
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    path = tmp_path_factory.mktemp("own") / "parts_of_mine.py"
    path.write_text(SOURCE)
    return load(path)


RULES = {
    "momentum": lambda: fs.rules.Momentum("local"),
    "qg": lambda: fs.rules.Momentum("quasi-global"),
    "gt": lambda: fs.rules.GradientTracking(0.5),
    "d2": lambda: fs.rules.D2(0.5),
    "adam": fs.rules.QGAdam,
    "decentlam": DecentLaM,
}
PARTS = [
    *((rule, "Clipped", "Pairs") for rule in RULES),
    *((rule, "Plain", "Late") for rule in RULES),
    ("momentum", "Noisy", "Late"),
    ("gut", "Mixed", "Pairs"),
    ("mine", "", ""),
]


def optimizer_of(own: ModuleType, which: tuple[str, str, str], parameters: Any) -> Any:
    rule, gradient, communicator = which
    if rule == "mine":
        return own.Mine(parameters)
    taken = getattr(own, gradient, None) or getattr(fs.gradients, gradient)
    return fs.Optimizer(
        parameters,
        0.02,
        gradient=taken(),
        rule=fs.rules.GUT(0.1) if rule == "gut" else RULES[rule](),
        communicator=getattr(own, communicator)(6),
    )


@pytest.mark.parametrize("which", PARTS, ids="-".join)
def test_own_parts_step_and_go_on(own: ModuleType, which: tuple[str, str, str], seed: int) -> None:
    """Saved and loaded, copied deeply, and through a pickle, all bit for bit."""
    world, other = AgentLosses(6, seed), AgentLosses(6, seed + 1)
    parameters, fresh = world.parameters(), other.parameters()
    optimizer, loaded = optimizer_of(own, which, parameters), optimizer_of(own, which, fresh)
    start = snapshot(optimizer, parameters)
    train(optimizer, world, parameters, 3)
    assert not equal(start, snapshot(optimizer, parameters))
    for group in loaded.param_groups:
        group["lr"] = optimizer.param_groups[0]["lr"]
    reload(optimizer, parameters, loaded, fresh)
    copies = [(loaded, fresh), *twins(optimizer)]
    train(optimizer, world, parameters, 4)
    for copied, theirs in copies:
        train(copied, world, theirs, 4)
        assert all(map(torch.equal, parameters, theirs))
        assert all(p.isfinite().all() for p in theirs)


def test_own_gradients_and_communicators_do_what_they_say(own: ModuleType) -> None:
    p = torch.nn.Parameter(torch.zeros(4, 3))
    clipped = own.Clipped()
    optimizer = fs.Optimizer([p], 1.0, gradient=clipped, communicator=own.Pairs(4))
    optimizer.param_groups[0]["longest"] = 0.2
    p.grad = torch.tensor([[3.0, 4.0, 0.0]]).expand(4, 3).clone()
    optimizer.step()
    assert torch.allclose(p, torch.tensor([-0.12, -0.16, 0.0]))
    assert optimizer.bytes_sent == 4 * 4 * 3
    with pytest.raises(ValueError, match="longest must be >= 0 and finite, got -1"):
        optimizer.param_groups[0]["longest"] = -1.0
        p.grad = torch.ones(4, 3)
        optimizer.step()
    start = torch.randn(6, 5)
    q = torch.nn.Parameter(start.clone())
    optimizer = fs.Optimizer([q], 0.0, communicator=own.Pairs(6))
    for _ in range(60):
        q.grad = torch.zeros_like(q)
        optimizer.step()
    assert torch.allclose(q, start.mean(0).expand_as(q), atol=1e-5)


def test_long_rows_stay_whole_for_own_communicators(own: ModuleType, seed: int) -> None:
    """Rules that step pieces of rows do so only where the communicator says that it can."""
    draw = torch.Generator().manual_seed(seed)
    start, gradient = (torch.randn(6, 60_000, generator=draw) for _ in range(2))
    ends = []
    for parts in (1, 2):
        parameters = [torch.nn.Parameter(t.clone()) for t in start.chunk(parts, 1)]
        optimizer = fs.Optimizer(
            parameters, 0.1, rule=fs.rules.GradientTracking(), communicator=own.Late(6)
        )
        for _ in range(3):
            for p, g in zip(parameters, gradient.chunk(parts, 1), strict=True):
                p.grad = g.clone()
            optimizer.step()
        ends.append(torch.cat([p.detach() for p in parameters], 1))
    assert torch.equal(*ends)


@pytest.mark.parametrize("rule", [fs.rules.Relay, fs.rules.AdaptedMomentum])
def test_rules_that_need_a_graph_say_so(own: ModuleType, rule: Any) -> None:
    p = torch.nn.Parameter(torch.zeros(6, 5))
    gradient = fs.gradients.Plain() if rule is fs.rules.Relay else fs.gradients.Cross()
    with pytest.raises(ValueError, match="Pairs has no"):
        fs.Optimizer([p], gradient=gradient, rule=rule(), communicator=own.Pairs(6))


class Differences(fs.rules.Rule):
    def step(self, rows: Any, comm: Any) -> None:
        rows.x.add_(comm.differences(rows.x))


class Mixed(fs.rules.Rule):
    def step(self, rows: Any, comm: Any) -> None:
        rows.x.copy_(comm.mixed(rows.x))


@pytest.mark.parametrize("compressor", [None, fs.compressors.TopK(0.3)])
@pytest.mark.parametrize(("every", "rounds"), [(1, 2), (2, 1), (2, 3)])
def test_differences_are_those_of_what_is_mixed(
    compressor: Any, every: int, rounds: int, seed: int
) -> None:
    """Also where a step has several gossips, or none."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(4, 70, generator=draw)
    found = []
    for rule in (Differences(), Mixed()):
        p = torch.nn.Parameter(start.clone())
        gossip = fs.comm.Gossip("ring", compressor, 0.6, every=every, rounds=rounds)
        optimizer = fs.Optimizer([p], rule=rule, communicator=gossip)
        for _ in range(4):
            optimizer.step()
        found.append((p.detach(), optimizer.bytes_sent))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-5)
    assert found[0][1] == found[1][1] > 0


def test_a_number_for_the_whole_optimizer_is_refused() -> None:
    class Clock(fs.rules.Rule):
        states = (fs.rules.State("clock", "one", "scalar"),)

    with pytest.raises(ValueError, match="Clock cannot keep clock"):
        fs.Optimizer([torch.nn.Parameter(torch.zeros(2, 3))], rule=Clock())


def test_numbers_for_each_agent_have_their_dtype() -> None:
    class Clock(fs.rules.Rule):
        states = (fs.rules.State("clock", width="scalar", dtype=torch.int64),)

        def step(self, rows: Any, comm: Any) -> None:
            rows.states["clock"].add_(1)

    p = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = fs.Optimizer([p], rule=Clock(), communicator=fs.comm.Gossip("ring"))
    optimizer.step()
    assert optimizer.state[p]["clock"].tolist() == [1, 1]
    assert optimizer.state[p]["clock"].dtype == torch.int64


def test_what_a_rule_makes_once_is_its_own() -> None:
    """Names of the optimizer's own buffers may be its names too."""

    class Counting(fs.rules.Rule):
        def step(self, rows: Any, comm: Any) -> None:
            rows.x.sub_(rows.once("saved", lambda: torch.ones(())))

    p = torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = fs.Optimizer(
        [p], gradient=fs.gradients.SAM(), rule=Counting(), communicator=fs.comm.Gossip("ring")
    )

    def closure() -> Any:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(p.detach(), -torch.ones(2, 3))
