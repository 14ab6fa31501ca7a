"""The whole step on graphs that change, and with push-sum, against the same on a graph that stays and without."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from benchmarks.conftest import scale, seconds, synchronized
from benchmarks.steps.test_optimizer_step import RATES, agents_and_gradients, whole_step

SIZES = {"cpu": (16, 1_000_000), "cuda": (16, 2**22), "tiny": (5, 300)}
ROUNDS, WARM_UPS = 40, 5
METHODS = ("QGM", "QSADDLe")
Make = Callable[[int], fs.Schedule]
# name -> the schedule, and a graph that stays with equally long neighbor lists
SCHEDULES: dict[str, tuple[Make, Make]] = {
    "one-peer-exponential": (fs.topology.one_peer_exponential, fs.topology.directed_ring),
    "base-graph:2": (lambda n: fs.topology.base_graph(n, 2), fs.topology.ring),
    "matchings": (fs.topology.matchings, lambda n: fs.topology.matchings(n).at(0)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("method", METHODS)
def test_changing_graph(
    method: str, name: str, request: pytest.FixtureRequest, benchmark: Any, device: str
) -> None:
    agents, dim = SIZES[scale(request.config)]
    changing, fixed = SCHEDULES[name]
    steps = [
        Step(method, dim, device, topology=changing(agents)),
        Step(method, dim, device, topology=fixed(agents)),
    ]
    measure(benchmark, steps, method=method, graph=name)


@pytest.mark.parametrize("method", ("DSGD", *METHODS))
def test_push_sum(method: str, request: pytest.FixtureRequest, benchmark: Any, device: str) -> None:
    """On a digraph of in-degree 1 and 2, against a ring without push-sum."""
    agents, dim = SIZES[scale(request.config)]
    steps = [
        Step(method, dim, device, topology=digraph(agents), push_sum=True),
        Step(method, dim, device, topology=fs.topology.ring(agents)),
    ]
    measure(benchmark, steps, method=method, graph="push-sum")


def digraph(agents: int) -> fs.Topology:
    """Each agent sends to the next one, those of even numbers to the one behind it too."""
    W = torch.eye(agents)
    for i in range(agents):
        W[(i + 1) % agents, i] = 1
        if i % 2 == 0:
            W[(i + 2) % agents, i] = 1
    return fs.topology.from_matrix(W / W.sum(0), directed=True)


class Step:
    """A whole step of a method, which is called."""

    def __init__(self, method: str, dim: int, device: str, **options: Any) -> None:
        agents = options["topology"].agents
        parameter, gradient = agents_and_gradients(agents, dim, device)
        rates = {n: v for n, v in RATES.items() if method != "DSGD" or n != "momentum"}
        optimizer = getattr(fs, method)([parameter], **options, **rates)
        parameter.grad = gradient
        self.size = {"agents": agents, "dim": dim, "device": device}
        self.call = synchronized(whole_step(optimizer), device)


def measure(benchmark: Any, steps: list[Step], **about: str) -> None:
    """The first of two steps, and its time over that of the second, which take turns."""
    first, second = (step.call for step in steps)
    times: list[float] = []

    def interleaved() -> tuple[tuple[Any, ...], dict[str, Any]]:
        times.append(seconds(second))
        return (), {}

    for _ in range(WARM_UPS):
        interleaved()
        first()
    times.clear()
    benchmark.pedantic(first, setup=interleaved, rounds=ROUNDS)
    ratio = benchmark.stats.stats.median / statistics.median(times)
    benchmark.extra_info.update(
        over_the_other=round(ratio, 3), **about, **steps[0].size, threads=torch.get_num_threads()
    )
