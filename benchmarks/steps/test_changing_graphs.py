"""The whole step on graphs that change, against the same on a graph that stays, with as many neighbors a round."""

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
METHODS = {"QGM": fs.QGM, "QSADDLe": fs.QSADDLe}
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
    steps = []
    for make in SCHEDULES[name]:
        parameter, gradient = agents_and_gradients(agents, dim, device)
        optimizer = METHODS[method]([parameter], topology=make(agents), **RATES)
        parameter.grad = gradient
        steps.append(synchronized(whole_step(optimizer), device))
    changing, fixed = steps
    times: list[float] = []

    def interleaved() -> tuple[tuple[Any, ...], dict[str, Any]]:
        times.append(seconds(fixed))
        return (), {}

    for _ in range(WARM_UPS):
        interleaved()
        changing()
    times.clear()
    benchmark.pedantic(changing, setup=interleaved, rounds=ROUNDS)
    benchmark.extra_info.update(
        of_fixed_graph=round(benchmark.stats.stats.median / statistics.median(times), 3),
        agents=agents,
        dim=dim,
        method=method,
        schedule=name,
        device=device,
        threads=torch.get_num_threads(),
    )
