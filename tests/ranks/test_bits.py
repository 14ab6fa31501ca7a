"""Every optimizer over any placement of its agents has the bits of one stack: models, states, bytes and losses."""

import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.optimizers.public_methods import METHODS
from tests.ranks.over_threads import (
    AGENTS,
    COUNTS,
    assert_equal,
    joined,
    models_of,
    run,
    run_apart,
    spread,
    start,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # of D2 on rings, by each thread
    pytest.mark.filterwarnings("ignore:.*may oscillate"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "D2": {"momentum": 0.9, "consensus_step": 0.5},
    "GradientTracking": {"momentum": 0.9},
    "QSADDLe": {"nesterov": True, "rho": 0.1},
    "RelaySGD": {"topology": "chain", "momentum": 0.9},
    "LocalSGD": {"agents": AGENTS, "period": 3, "topology": None},
    "EASGD": {"agents": AGENTS, "period": 2, "topology": None},
    "DPPF": {"agents": AGENTS, "period": 3, "topology": None},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "NGM": {"cross_gradients": "model"},
    "NSADDLe": {"cross_gradients": "model", "perturb": "self"},
    "QGAdam": {"quasi_global": "both"},
    "QGM": {"state_dtype": torch.bfloat16},
    "QSADDLe": {"sam": fs.ESAM(0.6, 1.0), "adaptive": True},
    "DSADDLe": {"sam": fs.LookSAM(2)},
}
# models are drawn from torch's global generator, which threads share as processes do not
DRAWING = threading.Lock()
CASES = [*((name, {}) for name in METHODS), *VARIANTS.items()]


def make(name: str, options: dict[str, Any], params: Any, **more: Any) -> Any:
    given = {"lr": 0.05, "weight_decay": 0.01, "topology": "ring", **OPTIONS.get(name, {})}
    given |= {**options, **more}
    return METHODS[name](params, **{n: v for n, v in given.items() if v is not None})


def own(rule: Any, params: Any, topology: str = "ring", **more: Any) -> Any:
    return fs.Optimizer(
        params, 0.05, rule=rule, communicator=fs.comm.Gossip(topology), seed=3, **more
    )


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{n}{'-' if o else ''}{'-'.join(o)}" for n, o in CASES]
)
def test_a_placement_changes_no_bit(name: str, options: dict[str, Any], seed: int) -> None:
    is_tree, averages = name == "RelaySGD", "agents" in OPTIONS.get(name, {})
    graphs = (
        ["chain", "star"] if is_tree else [None] if averages else ["ring", "exponential", "star"]
    )
    for k, graph in enumerate(graphs):
        more = {} if graph is None else {"topology": graph}
        build = partial(make, name, {**options, **more})
        whole = run(build, start(seed + k), slice(0, AGENTS), 5)
        for counts in COUNTS[:4] if k == 0 else COUNTS[2:3]:
            assert_equal(joined(run_apart(build, start(seed + k), counts, 5)), whole)


def test_options_of_gossip_and_skipped_gradients(seed: int) -> None:
    for options in ({"every": 3}, {"rounds": 2}, {"every": 2, "rounds": 2, "consensus_step": 0.7}):
        gossip = fs.comm.Gossip("exponential", **options)

        def build(params: Any, gossip: Any = gossip, **more: Any) -> Any:
            return fs.Optimizer(
                params, 0.05, rule=fs.rules.Momentum("local"), communicator=gossip, **more
            )

        whole = run(build, start(seed), slice(0, AGENTS), 7)
        assert_equal(joined(run_apart(build, start(seed), (3, 1, 2, 2), 7)), whole)


class Twice(fs.rules.Rule):
    """Sends two row buffers, and differences of a third: a rule of somebody's own."""

    states = (fs.rules.State("drift"), fs.rules.State("age", width="scalar"))
    sends = ("x", "drift", "more")

    def step(self, rows: Any, comm: Any) -> None:
        drift = rows.states["drift"]
        x, mixed = comm.mixed(rows.x - rows.lr * rows.g, drift)
        pulled = comm.differences(x - mixed)
        drift.copy_(0.5 * mixed + 0.1 * rows.g + pulled)
        rows.states["age"].add_(1)
        rows.x.copy_(x)


def test_rules_of_ones_own_need_no_line_for_it(seed: int) -> None:
    whole = run(partial(own, Twice()), start(seed), slice(0, AGENTS), 6)
    for counts in COUNTS:
        assert_equal(joined(run_apart(partial(own, Twice()), start(seed), counts, 6)), whole)


@pytest.mark.parametrize("name", ["QSADDLe", "GradientTracking", "RelaySGD", "NSADDLe", "EASGD"])
def test_saved_on_some_counts_goes_on_on_others(name: str, seed: int) -> None:
    build = partial(make, name, {})
    whole = run(build, start(seed), slice(0, AGENTS), 9)
    half = run_apart(build, start(seed), (3, 5), 5)
    models = models_of(half)
    states = [spread(half, first, end) for first, end in ((0, 2), (2, 4), (4, 6), (6, 8))]
    rest = joined(run_apart(build, models, (2, 2, 2, 2), 4, states))
    assert torch.equal(rest.x, whole.x)
    for state, rows in whole.states.items():
        assert torch.equal(rest.states[state], rows), state


def test_an_ordinary_module_is_an_agent(seed: int) -> None:
    """One agent a rank, its parameters not stacked."""
    models = start(seed)
    whole = run(partial(make, "QSADDLe", {}), models, slice(0, AGENTS), 5)

    def work(transport: Any) -> torch.Tensor:
        rank = transport.rank
        a, b, c = (nn.Parameter(model[rank].clone()) for model in models)
        groups = [{"params": [a, b]}, {"params": [c], "lr": 0.01}]
        here = Placement((1,) * AGENTS, transport)
        optimizer = make("QSADDLe", {}, groups, placement=here)
        assert optimizer.agents == 1 and optimizer.placement is here

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            target = 0.3 * torch.tensor(float(rank))
            loss = sum((p - target).cosh().log().sum() for p in (a, b, c))
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        return torch.cat([p.detach().reshape(1, -1) for p in (a, b, c)], 1)

    found = run_in_threads(AGENTS, work, timeout=20)
    assert torch.equal(torch.cat(found), whole.x)  # type: ignore[arg-type]


def fill(stack: fs.AgentStack, values: dict[str, torch.Tensor], part: slice) -> None:
    for name, buffer in stack.buffers.items():
        buffer.copy_(values[name][part])


def test_the_consensus_model_is_that_of_one_stack(seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    whole = fs.AgentStack(module, AGENTS, init="independent", seed=3)
    draw = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(b.shape, generator=draw).to(b.dtype) for name, b in whole.buffers.items()
    }
    fill(whole, drawn, slice(0, AGENTS))
    wanted = whole.consensus().state_dict()
    for counts in COUNTS:

        def work(transport: Any, counts: tuple[int, ...] = counts) -> dict[str, torch.Tensor]:
            here = Placement(counts, transport)
            with DRAWING:
                stack = fs.AgentStack(module, here, init="independent", seed=3)
            assert stack.agents == here.agents and stack.first_agent == here.first_agent
            fill(stack, drawn, slice(here.first_agent, here.first_agent + here.agents))
            return stack.consensus().state_dict()

        for found in run_in_threads(len(counts), work, timeout=20):
            assert not isinstance(found, BaseException), found
            assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_parts_that_cannot_be_are_refused(seed: int) -> None:
    def work(transport: Any) -> list[str]:
        said = []
        two = Placement((1, 1), transport)
        p = [nn.Parameter(torch.zeros(1, 3))]
        for attempt in (
            lambda: Placement((1, 2, 3), transport),
            lambda: Placement((2, 0), transport),
            lambda: fs.QGM(p, topology=fs.topology.ring(3), placement=two),
            lambda: fs.QGM(p, placement=two),
            lambda: fs.QGM(
                [nn.Parameter(torch.zeros(3, 3))],
                topology="ring",
                placement=Placement((2, 2), transport),
            ),
            lambda: fs.QGM(p, topology="ring", placement=3),
            lambda: fs.LocalSGD(p, agents=3, placement=two),
        ):
            with pytest.raises(ValueError) as error:
                attempt()
            said.append(str(error.value))
        return said

    found, other = run_in_threads(2, work, timeout=20)
    assert isinstance(found, list) and isinstance(other, list), (found, other)
    for line, part in zip(
        found,
        (
            "counts must be one for each of 2 ranks, got [1, 2, 3]",
            "each rank must hold at least one agent, got [2, 0]",
            "ring has 3 agents, but 2 are",
            "agents on several ranks need a topology, got None",
            "parameters must be stacked as [2, ...]",
            "placement must be an fs.place(...), or None, got 3",
            "3 agents cannot be those of Placement([1, 1]",
        ),
        strict=True,
    ):
        assert part in line, (line, part)
