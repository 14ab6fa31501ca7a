"""Graphs that change have the bits of one stack over any placement, and each round's messages go to its neighbors."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.over_threads import (
    AGENTS,
    COUNTS,
    assert_equal,
    closure_of,
    joined,
    models_of,
    run,
    run_apart,
    spread,
    start,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*compressed messages go to the neighbors of any round"),
]
SCHEDULES: dict[str, Any] = {
    "one-peer exponential": fs.topology.one_peer_exponential(AGENTS),
    "undirected": fs.topology.one_peer_exponential(AGENTS, directed=False),
    "matchings": fs.topology.matchings(AGENTS, 3),
    "faults": fs.Faults(links=0.3, agents=0.15, slow={2: 2}).over(fs.topology.ring(AGENTS)),
    "sequence": fs.topology.sequence([fs.topology.ring(AGENTS), fs.topology.star(AGENTS)]),
}
EIGHT_BITS = fs.compressors.StochasticQuantizer(8)
# method, options, whether it takes directed graphs
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], bool]] = {
    "DSGD": (fs.DSGD, {}, True),
    "QSADDLe": (fs.QSADDLe, {"rho": 0.1, "nesterov": True}, True),
    "QSADDLe, 8 bits": (fs.QSADDLe, {"compressor": EIGHT_BITS, "consensus_step": 0.4}, True),
    "DSGD, top-k": (fs.DSGD, {"compressor": fs.compressors.TopK(0.3), "consensus_step": 0.4}, True),
    "GradientTracking": (fs.GradientTracking, {"momentum": 0.9}, True),
    "PushPull": (fs.PushPull, {}, True),
    "QGAdam": (fs.QGAdam, {}, True),
    "GUT": (fs.GUT, {}, True),
    "NSADDLe": (fs.NSADDLe, {}, False),
    "NGM, model-variant": (fs.NGM, {"cross_gradients": "model"}, False),
}


def make(name: str, graph: str, params: Any, **more: Any) -> Any:
    method, options, _ = CASES[name]
    return method(params, lr=0.03, topology=SCHEDULES[graph], **{**options, **more})


def often(params: Any, graph: str = "matchings", **more: Any) -> Any:
    """Several gossips in a row, of successive graphs, every second step."""
    gossip = fs.comm.Gossip(SCHEDULES[graph], every=2, rounds=2)
    return fs.Optimizer(params, 0.03, rule=fs.rules.Momentum("local"), communicator=gossip, **more)


@pytest.mark.parametrize("graph", SCHEDULES)
@pytest.mark.parametrize("name", CASES)
def test_a_placement_changes_no_bit(name: str, graph: str, seed: int) -> None:
    if graph == "one-peer exponential" and not CASES[name][2]:
        pytest.skip("needs links that go both ways")
    if graph == "faults" and name == "GUT":
        pytest.skip("takes faults of links alone")
    build = partial(make, name, graph)
    whole = run(build, start(seed), slice(0, AGENTS), 4)
    # each of them with some
    turn = (list(CASES).index(name) + list(SCHEDULES).index(graph)) % 4
    for counts in {COUNTS[turn], (3, 5)}:
        assert_equal(joined(run_apart(build, start(seed), counts, 4)), whole)


@pytest.mark.filterwarnings("always:.*compressed messages go to the neighbors of any round")
def test_what_a_compressor_gives_up_is_said_once_and_of_all_agents(
    recwarn: pytest.WarningsRecorder,
) -> None:
    build = partial(make, "QSADDLe, 8 bits", "undirected")
    run_apart(build, start(0), (3, 1, 2, 2), 0)
    (warning,) = recwarn
    # each of the 8 has 3 neighbors in all, and one in a round
    assert "24 in each gossip, where 8 models" in str(warning.message)


def digraph(agents: int = AGENTS) -> fs.Topology:
    """A ring of one direction with some more links: its columns alone sum to one."""
    heard = torch.eye(agents) + torch.eye(agents).roll(1, 0)
    heard[0, 3] = heard[5, 2] = heard[2, 6] = 1
    return fs.topology.from_matrix(heard / heard.sum(0), directed=True)


def pushed_often(params: Any, lr: float, push_sum: bool, **more: Any) -> Any:
    gossip = fs.comm.Gossip(digraph(), every=2, rounds=2, push_sum=push_sum)
    return fs.Optimizer(params, lr, rule=fs.rules.Momentum("local"), communicator=gossip, **more)


PUSHED: dict[str, Callable[..., Any]] = {
    "several gossips, every second step": pushed_often,
    "DSGD": partial(fs.DSGD, topology=digraph()),
    "DSADDLe": partial(fs.DSADDLe, topology=digraph(), rho=0.1),
    "QSADDLe": partial(fs.QSADDLe, topology=digraph(), rho=0.1, momentum=0.5),
    "DSGD, links that fall": partial(fs.DSGD, topology=fs.Faults(links=0.3).over(digraph())),
}


@pytest.mark.filterwarnings("ignore:.*experiment")
@pytest.mark.parametrize("name", PUSHED)
def test_push_sum(name: str, seed: int) -> None:
    def build(params: Any, **more: Any) -> Any:
        return PUSHED[name](params, lr=0.03, push_sum=True, **more)

    whole = run(build, start(seed), slice(0, AGENTS), 5)
    assert not torch.equal(
        whole.states["push_weight"], torch.ones_like(whole.states["push_weight"])
    )
    for counts in COUNTS[:3]:
        assert_equal(joined(run_apart(build, start(seed), counts, 5)), whole)
    parts = run_apart(build, start(seed), (3, 5), 2)
    states = [spread(parts, *part) for part in ((0, 2), (2, 3), (3, 8))]
    got = joined(run_apart(build, models_of(parts), (2, 1, 5), 3, states))
    assert torch.equal(got.x, whole.x)
    assert all(torch.equal(got.states[n], rows) for n, rows in whole.states.items())


@pytest.mark.parametrize("graph", ["matchings", "sequence"])
def test_several_gossips_in_a_row(graph: str, seed: int) -> None:
    build = partial(often, graph=graph)
    whole = run(build, start(seed), slice(0, AGENTS), 5)
    for counts in COUNTS[1:3]:
        assert_equal(joined(run_apart(build, start(seed), counts, 5)), whole)


@pytest.mark.parametrize("graph", ["one-peer exponential", "matchings", "faults"])
@pytest.mark.parametrize("name", ["QSADDLe", "QSADDLe, 8 bits"])
def test_a_run_goes_on_in_the_middle_of_a_period(name: str, graph: str, seed: int) -> None:
    build, first = partial(make, name, graph), start(seed)
    whole = run(build, first, slice(0, AGENTS), 5)
    parts = run_apart(build, first, (3, 5), 2)
    states = [spread(parts, *part) for part in ((0, 2), (2, 3), (3, 8))]
    got = joined(run_apart(build, models_of(parts), (2, 1, 5), 3, states))
    assert torch.equal(got.x, whole.x)
    assert all(torch.equal(got.states[n], rows) for n, rows in whole.states.items())


def test_a_round_sends_to_its_neighbors_alone(seed: int) -> None:
    """One row and its header for the one peer of a round, whoever else is heard in other rounds."""

    def work(transport: Any) -> list[int]:
        here = Placement((1,) * AGENTS, transport)
        params = [nn.Parameter(model[here.rank : here.rank + 1].clone()) for model in start(seed)]
        optimizer = make("DSGD", "one-peer exponential", params, placement=here)
        closure, sent = closure_of(optimizer, here.rank, []), []
        for _ in range(3):
            before = optimizer.bytes_on_wire
            optimizer.step(closure)
            sent.append(optimizer.bytes_on_wire - before)
        sent.append(4 * optimizer.rows.layout.stride)
        return sent

    for found in run_in_threads(AGENTS, work, timeout=20):
        assert isinstance(found, list)
        *sent, row = found
        assert sent == [row + 128] * 3


@pytest.mark.parametrize("graph", ["matchings", "sequence"])
def test_graphs_take_turns_with_the_memory_of_messages(graph: str, seed: int) -> None:
    """However many steps there are, and rounds in a period, messages lie in one place, and no graph's are kept."""

    def work(transport: Any) -> tuple[int, int]:
        here = Placement((4, 4), transport)
        part = slice(here.first_agent, here.first_agent + here.agents)
        params = [nn.Parameter(model[part].clone()) for model in start(seed)]
        optimizer = make("DSGD", graph, params, placement=here)
        closure, places, plans = closure_of(optimizer, part.start, []), set(), []
        for _ in range(12):
            optimizer.step(closure)
            plans.append(weakref.ref(optimizer.communicator.plan))
            columns, device = optimizer.model_columns.stop, optimizer.rows.x.device
            rows = optimizer.communicator.buffers.halo(columns, device).rows
            places.add(rows.untyped_storage().data_ptr())
        gc.collect()
        return len({plan() for plan in plans} - {None}), len(places)

    for found in run_in_threads(2, work, timeout=20):
        assert isinstance(found, tuple), found
        plans, places = found
        # memory grows with what a round needs, which is soon done
        assert plans <= 2 and places <= 3
