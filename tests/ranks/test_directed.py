"""Links of one direction: the bits of one process, and news of a failure that waits for nobody who sends nothing."""

import time
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.over_threads import AGENTS, assert_equal, joined, run, run_apart, start

pytestmark = pytest.mark.usefixtures("one_thread")
TIMEOUT = 10.0


class OneWay(fs.rules.Momentum):
    """Momentum SGD on any row-stochastic W."""

    needs = GraphNeeds(symmetric=False)


def directed_ring(**options: Any) -> Any:
    W = (torch.eye(AGENTS, dtype=torch.float64).roll(1, 1) + torch.eye(AGENTS)) / 2
    return fs.comm.Gossip(fs.topology.from_matrix(W, require_symmetric=False), **options)


def make(groups: Any, **options: Any) -> Any:
    return fs.Optimizer(
        groups, rule=OneWay("local", 0.9), **{"communicator": directed_ring(), **options}
    )


@pytest.mark.parametrize("compressor", [None, fs.compressors.TopK(0.5)])
def test_bits_are_those_of_one_process(compressor: Any, seed: int) -> None:
    how = {"communicator": directed_ring(compressor=compressor)}
    models = start(seed)
    whole = run(make, models, slice(0, AGENTS), 4, **how)
    assert_equal(joined(run_apart(make, models, (3, 1, 4), 4, **how)), whole)


def test_a_failure_is_told_along_links_alone(seed: int) -> None:
    models = start(seed)

    def work(transport: Any) -> None:
        here = Placement((1,) * AGENTS, transport)
        part = slice(here.rank, here.rank + 1)
        optimizer = run(make, models, part, 2, placement=here).optimizer
        for _ in range(AGENTS):
            if here.rank == 2:
                optimizer.parameters[0].grad.fill_(torch.nan)
            optimizer.step()

    begin = time.monotonic()
    found = run_in_threads(AGENTS, work, timeout=TIMEOUT)
    assert time.monotonic() - begin < TIMEOUT / 2
    assert isinstance(found.pop(2), fs.NonFiniteGradientError)
    assert [error.rank for error in found] == [2] * (AGENTS - 1)  # type: ignore[union-attr]


class Relaying(OneWay):
    """Sends a row along each edge as well."""

    def advance(self, groups: Any, optimizer: Any) -> None:
        for rows, comm in groups:
            comm.communicator.deliver(rows.x.repeat(comm.lists(rows.x.device).width - 1, 1))
        super().advance(groups, optimizer)


def test_rows_of_edges_need_both_directions(seed: int) -> None:
    models = start(seed)

    def relaying(groups: Any, **options: Any) -> Any:
        rule = Relaying("local", 0.9)
        return fs.Optimizer(groups, rule=rule, communicator=directed_ring(), **options)

    with pytest.raises(ValueError, match=r"both directions, but in .* agent 0 hears 1, and 1 does"):
        run_apart(relaying, models, (3, 1, 4), 1)
