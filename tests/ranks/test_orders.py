"""Messages that come late and in any order: no deadlock, the bits of the stack, and one name where a rank fails."""

import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsaddle.ranks import FaultyTransport, PeerError, ThreadTransport
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks import work
from tests.ranks.graphs import counts_of, graphs

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*may oscillate"),
]
few = settings(max_examples=20, deadline=None)
METHODS = sorted(work.MAKE)
STEPS = 5
DELAY = 1e-3
# seconds until a message that does not come is an error, far above what a run takes
PATIENCE = 20.0


def trained(
    name: str, graph: Any, counts: tuple[int, ...], seed: int, **faults: Any
) -> list[dict[str, Any] | BaseException]:
    """What each rank has after some steps; `faults` are of one rank, `culprit`."""
    culprit, fails_at = faults.get("culprit"), faults.get("fails_at")

    def run(inner: ThreadTransport) -> dict[str, Any]:
        own = fails_at if inner.rank == culprit else None
        here, part = work.here_of(FaultyTransport(inner, DELAY, own, seed), counts)
        problem = work.Problem(here.all_agents, part)
        optimizer = work.MAKE[name](problem.params, graph, here.all_agents, placement=here)
        for _ in range(STEPS):
            before = problem.rows(here.agents)
            try:
                optimizer.step(problem.closure(optimizer))
            except PeerError:
                assert torch.equal(problem.rows(here.agents), before)
                raise
        return work.told(optimizer, problem)

    return run_in_threads(len(counts), run, timeout=PATIENCE)


@few
@given(st.data())
def test_late_messages_in_any_order_change_no_bits(data: Any) -> None:
    name = data.draw(st.sampled_from(METHODS))
    graph = data.draw(graphs(7))
    counts = data.draw(counts_of(graph.agents))
    parts = trained(name, graph, counts, data.draw(st.integers(0, 2**32)))
    for part in parts:
        if isinstance(part, BaseException):
            raise part
    whole = work.on_a_stack(name, graph, graph.agents, STEPS)
    assert torch.equal(torch.cat([part["x"] for part in parts]), whole["x"])
    assert sum(part["sent"] for part in parts) == whole["sent"]


@few
@given(st.data())
def test_a_rank_that_loses_its_messages_is_named_by_all(data: Any) -> None:
    name = data.draw(st.sampled_from(METHODS))
    graph = data.draw(graphs(7).filter(lambda graph: graph.agents > 2))
    counts = data.draw(counts_of(graph.agents).filter(lambda counts: len(counts) > 1))
    culprit = data.draw(st.integers(0, len(counts) - 1))
    fails_at = data.draw(st.integers(0, STEPS - 1))
    seed = data.draw(st.integers(0, 2**32))
    # meetings are every fourth step, and have two exchanges
    at = fails_at % 2 if name in ("LocalSGD", "EASGD", "DPPF") else fails_at
    found = trained(name, graph, counts, seed, culprit=culprit, fails_at=at)
    # those far away may have finished before the news have reached them
    told = [each for each in found if isinstance(each, BaseException)]
    assert told and isinstance(found[culprit], PeerError)
    assert {type(error) for error in told} == {PeerError}
    assert {error.rank for error in told if isinstance(error, PeerError)} == {culprit}
    assert threading.active_count() < 50
