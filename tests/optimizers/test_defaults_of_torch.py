"""Nothing depends on torch's default dtype and device: the bits are those of a run without."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle import sharpness
from fastsaddle.compressors import Identity, RandomK, Sign, StochasticQuantizer, TopK
from tests.optimizers.optimizer_snapshots import equal, snapshot
from tests.optimizers.test_every_optimizer import METHODS, NEEDS

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS, CPU = 4, torch.device("cpu")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
}
around = pytest.mark.parametrize("surroundings", SURROUNDINGS)
# beside the methods as they are
OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "quantizer": lambda p, lr: fs.QGM(p, lr, topology="ring", compressor=StochasticQuantizer(4)),
    "euclidean, biased": lambda p, lr: fs.DSGDm(
        p,
        lr,
        topology="ring",
        compressor=StochasticQuantizer(4, bucket=None, norm="l2", levels=15, biased=True),
    ),
    "top-k": lambda p, lr: fs.DSGD(
        p, lr, topology="ring", compressor=TopK(0.3), consensus_step=0.3
    ),
    "random-k": lambda p, lr: fs.GradientTracking(
        p, lr, topology="ring", compressor=RandomK(0.3), consensus_step=0.2
    ),
    "sign": lambda p, lr: fs.MomentumTracking(
        p, lr, topology="ring", compressor=Sign(), consensus_step=0.2
    ),
    "identity": lambda p, lr: fs.D2(
        p, lr, topology="ring", compressor=Identity(), consensus_step=0.5
    ),
    "running sum": lambda p, lr: fs.QSADDLe(
        p, lr, topology="ring", compressor=fs.Choco(StochasticQuantizer(8), running_sum=True)
    ),
    "AdaGossip": lambda p, lr: fs.QGM(
        p, lr, topology="ring", compressor=fs.Choco(StochasticQuantizer(8), adaptive=True)
    ),
    "mix-then-compress": lambda p, lr: fs.DSGD(
        p, lr, topology="ring", compressor=fs.Choco(TopK(0.5), order="mix-then-compress")
    ),
    "NGM, quantizer": lambda p, lr: fs.NGM(
        p, lr, topology="ring", compressor=StochasticQuantizer(8)
    ),
    "ESAM": lambda p, lr: fs.QSADDLe(p, lr, topology="ring", sam=fs.ESAM()),
    "LookSAM": lambda p, lr: fs.QSADDLe(p, lr, topology="ring", sam=fs.LookSAM(2)),
    "MomentumSAM": lambda p, lr: fs.QSADDLe(p, lr, topology="ring", sam=fs.MomentumSAM()),
    "adaptive SAM": lambda p, lr: fs.DSADDLe(p, lr, topology="ring", adaptive=True),
    "bfloat16 state": lambda p, lr: fs.QGM(
        p,
        lr,
        topology="ring",
        state_dtype=torch.bfloat16,
        compressor=StochasticQuantizer(8),
    ),
    "rare gossip": lambda p, lr: fs.Optimizer(
        p, lr, communicator=fs.comm.Gossip("ring", every=2, rounds=2)
    ),
    "dense": lambda p, lr: fs.Optimizer(p, lr, communicator=fs.comm.Gossip("ring", dense=True)),
    "QSR": lambda p, lr: fs.LocalSGD(p, lr, agents=AGENTS, period=fs.QSR(2, 0.1, 9)),
    "local": lambda p, lr: fs.LocalSGD(p, lr, agents=AGENTS, local=torch.optim.SGD),
    "one agent": lambda p, lr: fs.QSADDLe(p, lr),
    "reference": lambda p, lr: fs.QGM(
        p, lr, topology="ring", compressor=StochasticQuantizer(8), backend="reference"
    ),
    "matrix": lambda p, lr: fs.DSGD(
        p, lr, topology=fs.topology.from_matrix([[0.25] * AGENTS] * AGENTS)
    ),
    "skips": lambda p, lr: fs.MomentumTracking(p, lr, topology="ring", nonfinite="skip"),
}


def named(name: str) -> Callable[[Any, Any], Any]:
    own = {"topology": "ring", **NEEDS.get(name, {})}
    own = NEEDS.get(name, own)
    return lambda p, lr: METHODS[name](p, lr, weight_decay=0.01, **own)


CASES = {**{name: named(name) for name in METHODS}, **OTHERS}


def run(make: Callable[[Any, Any], Any], seed: int, steps: int = 6) -> list[Any]:
    """A run with a rate that changes, saved, copied and loaded in the middle; all that is known in the end."""
    draw = torch.Generator("cpu").manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float32, device=CPU)

    given = [nn.Parameter(random(AGENTS, *shape)) for shape in ((6, 5), (), (37,))]
    targets = [random(*p.shape) for p in given]
    optimizer = make([{"params": given[:2]}, {"params": given[2:], "lr": 0.03}], 0.05)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        pulls = zip(parameters(optimizer), targets, strict=True)
        loss = torch.stack([(p - t).cosh().log().sum() for p, t in pulls]).sum()
        loss.backward()
        return loss

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + step)
        if step == 2:
            optimizer = copy.deepcopy(optimizer)
        if step == 4:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        optimizer.step(closure)
    found = snapshot(optimizer, parameters(optimizer))
    return [*found, ("squares", optimizer.squares.clone()), ("mean", optimizer.rows.x.clone())]


def parameters(optimizer: Any) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


@around
@pytest.mark.parametrize("name", CASES)
def test_steps_have_the_bits_of_a_run_without(name: str, surroundings: str, seed: int) -> None:
    expected = run(CASES[name], seed)
    with SURROUNDINGS[surroundings]():
        found = run(CASES[name], seed)
    assert equal(found, expected)


@around
def test_rates_of_each_agent(surroundings: str, seed: int) -> None:
    """Tensors of any dtype are read as they are."""
    rates = torch.rand(AGENTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def make(given: Any, lr: float) -> Any:
        momentum = torch.tensor(0.87654321, dtype=torch.float64, device=CPU)
        return fs.QSADDLe(given, rates / 10, topology="ring", momentum=momentum, rho=rates)

    expected = run(make, seed)
    with SURROUNDINGS[surroundings]():
        assert equal(run(make, seed), expected)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6, dtype=torch.float32, device=CPU)
        self.norm = nn.BatchNorm1d(6, dtype=torch.float32, device=CPU)
        self.last = nn.Linear(6, 3, dtype=torch.float32, device=CPU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).tanh())


def trained(seed: int, init: str) -> list[torch.Tensor]:
    """A stack that is trained and measured."""
    torch.manual_seed(seed)
    draw = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(AGENTS, 8, 5, generator=draw, dtype=torch.float32, device=CPU)
    y = torch.randint(3, (AGENTS, 8), generator=draw, device=CPU)
    stack = fs.AgentStack(Network(), AGENTS, init, seed)
    optimizer = fs.QSADDLe(stack.parameters(), 0.1, topology="ring")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = AGENTS * F.cross_entropy(stack(x).flatten(0, 1), y.flatten())
        loss.backward()
        return loss

    losses = [optimizer.step(closure).detach() for _ in range(3)]
    stack.eval()
    data = x.flatten(0, 1), y.flatten()
    measured = measures(stack, data)
    mean = stack.consensus()
    found = [*losses, stack.x.clone(), stack.g.clone(), *stack.buffers.values(), *measured]
    return [*found, *mean.state_dict().values(), *stack.agent(2).state_dict().values()]


def measures(stack: fs.AgentStack, data: Any) -> list[torch.Tensor]:
    given = stack, F.cross_entropy, *data
    trace = sharpness.trace(*given, probes=3)
    return [
        sharpness.mean_loss(*given),
        sharpness.sam_sharpness(*given),
        sharpness.top_eigenvalue(*given),
        trace.estimate,
        trace.standard_error,
        sharpness.loss_surface(*given, points=3),
        sharpness.mean_valley(*given).widths,
    ]


@around
@pytest.mark.parametrize("init", ["same", "independent"])
def test_a_stack_is_trained_and_measured(init: str, surroundings: str, seed: int) -> None:
    expected = trained(seed, init)
    with SURROUNDINGS[surroundings]():
        found = trained(seed, init)
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    assert all(map(torch.equal, found, expected))


@around
@pytest.mark.parametrize(
    "compressor",
    [
        *(StochasticQuantizer(bits) for bits in (8, 4, 2)),
        StochasticQuantizer(2, biased=True),
        StochasticQuantizer(8, bucket=None, norm="l2", levels=255),
        TopK(0.2),
        RandomK(0.2, unbiased=True),
        Sign(),
        Identity(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("backend", ["reference", None])
def test_messages(compressor: Any, backend: str | None, surroundings: str, seed: int) -> None:
    draw = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(3, 260, generator=draw, dtype=torch.float32, device=CPU)

    def sent() -> list[torch.Tensor]:
        with fs.use_backend(backend):
            payload = compressor.encode(x, seed % 2**63, 5)
            residual = x.flip(0).contiguous()
            other = compressor.compress_ef_(x, residual, seed % 2**63, 6)
            parts = [*payload.parts.values(), *other.parts.values()]
            out = x.clone()
            compressor.decode_add_(payload, out, 0.3)
            return [*parts, payload.message(1), compressor.decode(payload), residual, out]

    expected = sent()
    with SURROUNDINGS[surroundings]():
        found = sent()
    assert all(map(torch.equal, found, expected))
