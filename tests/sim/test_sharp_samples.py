"""ESAM's choice of samples against float64 oracles: what each pass differentiates, and the steps that follow."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run.sharp_samples import SharpSamples, is_wanted
from fastsaddle.sim.run.simulation import Simulation
from tests.optimizers.agent_losses import GRAPHS, close

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS, BATCH, STEPS, RATE, RHO = 5, 9, 4, 0.1, 0.3
each_engine = pytest.mark.parametrize(
    ("engine", "chunk"), [("vmap", None), ("vmap", 2), ("loop", None)]
)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class Oracle:
    """Agents' samples, and SAM gradients on those whose loss grew most, one model after the other."""

    def __init__(self, module: nn.Module, seed: int) -> None:
        self.module = copy.deepcopy(module).double()
        draw = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(STEPS, AGENTS, BATCH, 6, generator=draw)
        self.labels = torch.randint(0, 3, (STEPS, AGENTS, BATCH), generator=draw)
        # how near a choice of samples, or of what is not chosen, came to another one
        self.now, self.margin = 0, torch.inf

    def losses(self, agent: int, x: Tensor) -> Tensor:
        named, at = {}, 0
        for name, p in self.module.named_parameters():
            named[name] = x[at : at + p.numel()].reshape(p.shape)
            at += p.numel()
        outputs = torch.func.functional_call(
            self.module, named, (self.inputs[self.now, agent].double(),)
        )
        return F.cross_entropy(outputs, self.labels[self.now, agent], reduction="none")

    def sharp(self, agent: int, model: Tensor, k: int) -> Tensor:
        x = model.clone().requires_grad_()
        before = self.losses(agent, x)
        g = torch.autograd.grad(before.mean(), x)[0]
        perturbed = (model + RHO * g / (g.norm() + 1e-12)).requires_grad_()
        after = self.losses(agent, perturbed)
        order = (after - before).detach().sort(descending=True)
        self.margin = min(self.margin, float(order.values[k - 1] - order.values[k]))
        return torch.autograd.grad(after[order.indices[:k]].mean(), perturbed)[0]


def rows(stack: fs.AgentStack) -> Tensor:
    return torch.cat([p.detach().flatten(1) for p in stack.parameters()], 1).double()


@each_engine
@pytest.mark.parametrize("fraction", [0.5, 0.05, 0.9])
@pytest.mark.parametrize("method", ["DSADDLe", "NSADDLe", "NSADDLe-self"])
def test_steps(method: str, fraction: float, engine: str, chunk: int | None, seed: int) -> None:
    """On an irregular graph; N-SADDLe chooses anew for each model that an agent is sent."""
    topology, W, _ = GRAPHS["kite"]
    k = max(1, int(fraction * BATCH))
    crossing = method != "DSADDLe"
    for attempt in range(50):
        stack = fs.AgentStack(network(), AGENTS, init="independent", seed=seed % 2**20 + attempt)
        oracle, x = Oracle(stack.template, seed + attempt), rows(stack)
        for oracle.now in range(STEPS):
            G = torch.zeros_like(x)
            for i in range(AGENTS):
                G[i] = oracle.sharp(i, x[i], k)
            if method == "NSADDLe":
                sharp = [[oracle.sharp(j, x[i], k) for j in range(AGENTS)] for i in range(AGENTS)]
                G = torch.stack([W[i] @ torch.stack(sharp[i]) for i in range(AGENTS)])
            elif crossing:
                cross = []
                for i in range(AGENTS):
                    plain = []
                    for j in range(AGENTS):
                        y = x[i].clone().requires_grad_()
                        plain.append(torch.autograd.grad(oracle.losses(j, y).mean(), y)[0])
                    plain[i] = G[i]
                    cross.append(W[i] @ torch.stack(plain))
                G = torch.stack(cross)
            x = W @ x - RATE * G if crossing else W @ (x - RATE * G)
        if oracle.margin > 1e-5:
            break
    else:
        pytest.fail("all of fifty problems came within 1e-5 of another choice")
    options: dict[str, Any] = {"rho": RHO, "topology": topology}
    if crossing:
        options |= {"momentum": 0.0, "perturb": "self" if "-" in method else "all"}
    sam = fs.ESAM(weights=1.0, samples=fraction)
    optimizer = getattr(fs, method.split("-")[0])(stack.parameters(), lr=RATE, sam=sam, **options)
    sharp = SharpSamples(GradientEngine(stack, F.cross_entropy, engine, chunk), optimizer)
    for step in range(STEPS):
        inputs, labels, taken = oracle.inputs[step], oracle.labels[step], []

        def closure(inputs: Tensor = inputs, labels: Tensor = labels, taken: Any = taken) -> Tensor:
            losses, samples = sharp.gradients(inputs, labels)
            taken.append(samples)
            return losses.mean()

        expected = sum(F.cross_entropy(stack.agent(i)(inputs[i]), labels[i]) for i in range(AGENTS))
        loss = optimizer.step(closure)
        assert abs(AGENTS * loss - expected) < 1e-5 * abs(expected)
        others = {"DSADDLe": [], "NSADDLe": [BATCH, k] * 3, "NSADDLe-self": [BATCH] * 3}[method]
        assert taken == [BATCH, k, *others]
    close(rows(stack), x)


@each_engine
def test_all_samples_are_plain_sam(engine: str, chunk: int | None, seed: int) -> None:
    """Where all are kept, gradients are those of a step without a choice."""
    found = []
    for chosen in (False, True):
        stack = fs.AgentStack(network(), AGENTS, init="independent", seed=seed % 2**20)
        oracle = Oracle(stack.template, seed)
        sam = fs.ESAM(samples=1.0)
        optimizer = fs.QSADDLe(stack.parameters(), topology="ring", rho=RHO, sam=sam)
        gradients = GradientEngine(stack, F.cross_entropy, engine, chunk)
        sharp = SharpSamples(gradients, optimizer)
        for inputs, labels in zip(oracle.inputs, oracle.labels, strict=True):
            whole = lambda x=inputs, y=labels, of=gradients: of.gradients(x, y).mean()  # noqa: E731
            part = lambda x=inputs, y=labels, of=sharp: of.gradients(x, y)[0].mean()  # noqa: E731
            optimizer.step(part if chosen else whole)
        found.append(rows(stack))
    close(found[0], found[1], 1e-5)


@each_engine
def test_statistics_move_once_a_step(engine: str, chunk: int | None, seed: int) -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    stack = fs.AgentStack(module, AGENTS)
    optimizer = fs.QSADDLe(stack.parameters(), topology="ring", sam=fs.ESAM())
    sharp = SharpSamples(GradientEngine(stack, F.cross_entropy, engine, chunk), optimizer)
    oracle = Oracle(network(), seed)
    for step, (inputs, labels) in enumerate(zip(oracle.inputs, oracle.labels, strict=True), 1):
        optimizer.step(lambda x=inputs, y=labels: sharp.gradients(x, y)[0].mean())
        assert stack.buffers["1.num_batches_tracked"].tolist() == [step] * AGENTS


def test_who_wants_it() -> None:
    stack = fs.AgentStack(network(), AGENTS)
    engine = GradientEngine(stack, F.cross_entropy)
    for sam, wanted in ((None, False), (fs.LookSAM(), False), (fs.ESAM(), True)):
        optimizer = fs.QSADDLe(stack.parameters(), topology="ring", sam=sam)
        assert is_wanted(optimizer) == wanted
        if sam is None:
            with pytest.raises(ValueError, match=r"chosen for ESAM only, got FullSAM\(\)"):
                SharpSamples(engine, optimizer)
    whole = fs.DSADDLe(stack.parameters(), topology="ring", sam=fs.ESAM(samples=1.0))
    assert not is_wanted(whole) and not is_wanted(fs.QGM(stack.parameters(), topology="ring"))


@pytest.mark.parametrize(
    ("algorithm", "sam", "gradients"),
    [
        ("qsaddle", "esam:0.6:0.3", 1 + 2 / 7),
        ("nsaddle", "esam:0.6:0.5", 3 * (1 + 3 / 7)),
        ("qsaddle", "esam:0.6:1", 2),
        ("qsaddle", "looksam:3", 4 / 3),
        ("qsaddle", "momentum", 1),
    ],
)
def test_a_run_counts_parts_of_gradients_and_goes_on(
    algorithm: str, sam: str, gradients: float
) -> None:
    """Whole numbers where they are; from a checkpoint's content bit for bit."""
    config = TrainConfig(algorithm=algorithm, sam=sam, agents=4, batch_size=7, steps=6)
    whole, again = Simulation(config), Simulation(config)
    for step in range(3):
        whole.step(step)
    assert abs(whole.evaluations - 3 * 4 * gradients) < 1e-9
    assert isinstance(whole.evaluations, int) == (round(12 * gradients, 6) % 1 == 0)
    counters = whole.counters()
    assert all(isinstance(number, int) for number in counters.values())
    again.restore({name: t.clone() for name, t in whole.tensors().items()}, counters)
    assert again.evaluations == whole.evaluations
    for step in range(3, 6):
        assert torch.equal(whole.step(step), again.step(step))
    assert torch.equal(whole.stack.x, again.stack.x)
    assert again.evaluations == whole.evaluations
