"""What an optimizer tells of all agents, wherever they are: rows of buffers, and the mean as a plain module."""

import gc
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import ThreadTransport, run_in_threads
from tests.ranks.over_threads import AGENTS, COUNTS, run, start
from tests.ranks.test_bits import Twice

pytestmark = pytest.mark.usefixtures("one_thread")
MAKE: dict[str, Any] = {
    "QSADDLe": partial(fs.QSADDLe, lr=0.05, topology="ring"),
    "bfloat16 states": partial(fs.QGM, lr=0.05, topology="star", state_dtype=torch.bfloat16),
    "LookSAM": partial(fs.DSADDLe, lr=0.05, topology="ring", sam=fs.LookSAM(2)),
    "ESAM": partial(fs.QSADDLe, lr=0.05, topology="ring", sam=fs.ESAM(0.6, 1.0)),
    "QGAdam": partial(fs.QGAdam, lr=0.05, topology="ring"),
    "compressed": partial(
        fs.QGM, lr=0.05, topology="ring", compressor=fs.compressors.StochasticQuantizer(8)
    ),
    "a number an agent": partial(fs.Optimizer, rule=Twice(), communicator=fs.comm.Gossip("ring")),
    "relay": partial(fs.RelaySGD, lr=0.05, topology="chain", momentum=0.9),
}


def per_agent(optimizer: Any) -> list[str]:
    return [s.name for s in optimizer.states if s.rows != "one" and s.width != "group"]


@pytest.mark.parametrize("name", MAKE)
def test_rows_of_all_agents_are_those_of_one_process(name: str, seed: int) -> None:
    steps = 3
    whole = run(MAKE[name], start(seed), slice(0, AGENTS), steps).optimizer
    wanted = {what: whole.gathered(what) for what in ("x", *per_agent(whole))}
    assert torch.equal(wanted["x"], whole.rows.x)
    assert wanted["x"].data_ptr() != whole.rows.x.data_ptr()
    for what in whole.scalar_state.keys() & wanted.keys():
        assert torch.equal(wanted[what], torch.full((AGENTS, len(whole.param_groups)), 3.0))
    for counts in COUNTS[1:4]:
        models = start(seed)

        def work(transport: Any, counts: Any = counts, models: Any = models) -> dict[str, Any]:
            here = Placement(counts, transport)
            part = slice(here.first_agent, here.first_agent + here.agents)
            made = run(MAKE[name], models, part, steps, placement=here).optimizer
            return {what: made.gathered(what) for what in wanted}

        for found in run_in_threads(len(counts), work, timeout=20):
            assert isinstance(found, dict), found
            for what, rows in wanted.items():
                assert rows.dtype == found[what].dtype
                assert torch.equal(found[what], rows), what


def test_what_has_no_rows_of_agents_is_refused(seed: int) -> None:
    optimizer = run(MAKE["LookSAM"], start(seed), slice(0, AGENTS), 1).optimizer
    for name in ("step", "momentum", "g"):
        with pytest.raises(ValueError, match="a state that each agent has"):
            optimizer.gathered(name)
    seen = []

    def closure() -> None:
        for call in (optimizer.gathered, lambda: optimizer.consensus(nn.Linear(2, 2))):
            with pytest.raises(RuntimeError, match="while a step is in progress"):
                call()
            seen.append(call)

    optimizer.step(closure)
    assert seen


def held() -> int:
    """Bytes of all tensors in this process."""
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        # a proxy may raise when it is asked for its class
        if type(found) in (torch.Tensor, nn.Parameter):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("kind", ["gathered", "stack", "consensus"])
def test_rows_of_all_agents_are_kept_by_nobody(kind: str) -> None:
    agents, columns = 4, 50_000
    places = [Placement((1,) * agents, end) for end in ThreadTransport.group(agents, 20)]
    models = [nn.Linear(columns, 1, bias=False) for _ in range(agents)]
    stacks = [fs.AgentStack(model, here) for model, here in zip(models, places, strict=True)]
    calls: dict[str, Any] = {
        "gathered": lambda k: optimizers[k].gathered(),
        "stack": lambda k: stacks[k].consensus(),
        "consensus": lambda k: optimizers[k].consensus(models[k]),
    }

    def make(k: int) -> Any:
        own = stacks[k] if kind == "stack" else models[k]
        return fs.DSGD(own.parameters(), lr=0.1, topology="ring", placement=places[k])

    def on_all(call: Any) -> list[Any]:
        found = run_in_threads(agents, lambda transport: call(transport.rank))
        assert not any(isinstance(each, BaseException) for each in found), found
        return found

    optimizers = on_all(make)
    before = held()
    rows = on_all(calls[kind])
    assert held() - before >= agents * 4 * columns
    del rows
    assert held() - before < 4 * columns


class Network(nn.Module):
    """With statistics, a counter, and a layer that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3).requires_grad_(False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def trained(make: Any, model: nn.Module, batches: torch.Tensor, **options: Any) -> Any:
    optimizer = make(model.parameters(), lr=0.1, **options)

    def closure(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()

    for x in batches:
        optimizer.step(partial(closure, x))
    return optimizer


def averaged_apart(make: Any, models: list[nn.Module], batches: torch.Tensor) -> list[nn.Module]:
    """What each of the agents' threads gets; `batches` `[agents, steps, samples, 5]`."""

    def work(transport: Any) -> nn.Module:
        here = Placement((1,) * len(models), transport)
        mine = models[here.rank]
        optimizer = trained(make, mine, batches[here.rank], placement=here)
        return optimizer.consensus(mine)

    found = run_in_threads(len(models), work, timeout=20)
    assert all(isinstance(module, nn.Module) for module in found), found
    return found  # type: ignore[return-value]


def test_the_consensus_of_modules_has_the_bits_of_a_stacks(seed: int) -> None:
    torch.manual_seed(seed)
    models = [Network() for _ in range(4)]
    batches = torch.randn(4, 5, 6, 5)
    averaged = averaged_apart(partial(fs.QSADDLe, topology="ring", rho=0.1), models, batches)
    # a stack of what the agents have come to
    stack = fs.AgentStack(models[0], len(models))
    states = [model.state_dict() for model in models]
    stack.load_state_dict({name: torch.stack([s[name] for s in states]) for name in states[0]})
    expected = stack.consensus().state_dict()
    for module in averaged:
        assert isinstance(module, Network)
        assert not module.layers[3].weight.requires_grad
        for name, value in module.state_dict().items():
            assert torch.equal(value, expected[name]), name
    assert not torch.equal(states[0]["layers.0.weight"], states[1]["layers.0.weight"])


def test_the_consensus_of_easgd_is_its_center(seed: int) -> None:
    torch.manual_seed(seed)
    models = [Network() for _ in range(4)]
    first = [model.layers[0].weight.detach().clone() for model in models]
    batches = torch.randn(4, 1, 6, 5)
    make = partial(fs.EASGD, agents=4, period=2)
    for module in averaged_apart(make, models, batches):
        # before they first meet, it is where they began
        torch.testing.assert_close(module.layers[0].weight, torch.stack(first).mean(0))
        mean = torch.stack([model.layers[0].weight for model in models]).mean(0)
        assert not torch.allclose(module.layers[0].weight, mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_consensus_of_one_agent_is_a_copy(dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    # of one row, as a stack of one agent has it
    model = nn.Linear(5, 1).to(dtype)
    optimizer = fs.QSADDLe(model.parameters(), lr=0.1)
    model(torch.randn(6, 5, dtype=dtype)).square().sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.perturb()
    copied = optimizer.consensus(model)
    assert not torch.equal(model.weight, before["weight"])
    for name, value in copied.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, before[name])
    assert torch.equal(optimizer.gathered()[:, :5], before["weight"].float())


def test_modules_that_are_not_its_own_are_refused() -> None:
    stack = fs.AgentStack(nn.Linear(5, 3), 4)
    optimizer = fs.QGM(stack.parameters(), topology="ring")
    for module in (stack, nn.Linear(5, 3)):
        with pytest.raises(ValueError, match=r"stack\.consensus"):
            optimizer.consensus(module)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has none of them"):
        fs.QGM(nn.Linear(5, 3).parameters()).consensus(nn.Linear(5, 3))


@pytest.mark.parametrize("call", ["gathered", "consensus", "stack.consensus", "synchronize"])
def test_who_calls_alone_hears_that_every_rank_must(call: str) -> None:
    def work(transport: ThreadTransport) -> None:
        here, model = Placement((1, 1), transport), nn.Linear(3, 2)
        stack = fs.AgentStack(model, here) if call.startswith("stack") else model
        averaging, mixing = partial(fs.LocalSGD, agents=2), partial(fs.QGM, topology="ring")
        make: Any = averaging if call == "synchronize" else mixing
        optimizer = make(stack.parameters(), lr=0.1, placement=here)
        for p in stack.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        if transport.rank:
            return
        calls: dict[str, Any] = {
            "gathered": optimizer.gathered,
            "consensus": lambda: optimizer.consensus(model),
            "synchronize": optimizer.synchronize,
        }
        calls.get(call, getattr(stack, "consensus", None))()

    found, none = run_in_threads(2, work, timeout=20)
    assert none is None and isinstance(found, fs.PeerError), found
    last = call.rpartition(".")[2]
    said = (
        rf"rank 1.*: (has left.*|connection closed), but every rank must call {last}\(\); agent 0"
    )
    assert re.search(said, str(found)), found
