"""Stacking tax: gradients of n agents against one model on the concatenated batch, and against a plain loop."""

import statistics
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import fastsaddle as fs
from benchmarks.conftest import has_all_rows, scale, seconds, synchronized
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run import initial_models

AGENTS, BATCH = {"cpu": (16,), "cuda": (16, 256), "tiny": (2,)}, 32
# network -> shape of a sample, rounds
NETWORKS = {"mlp": ((1, 28, 28), 25), "lenet5": ((1, 28, 28), 25), "resnet20": ((3, 32, 32), 5)}
CASES = [
    *((n, engine) for n in NETWORKS for engine in ("auto", "vmap", "loop", "threads")),
    ("mlp", "batched"),
    ("lenet5", "lanes"),
    *((n, engine) for n in ("lenet5", "resnet20") for engine in ("unfold", "implicit")),
]


# minutes on a CPU for engines that are not chosen: with --all-rows alone
SLOW_NETWORK = "resnet20"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("agents", AGENTS[scale(metafunc.config)])
    quick = [case for case in CASES if case[0] != SLOW_NETWORK or case[1] == "auto"]
    cases = CASES if has_all_rows(metafunc.config) else quick
    metafunc.parametrize(("network", "engine"), cases)


def test_stacking_tax(network: str, engine: str, agents: int, benchmark: Any, device: str) -> None:
    if engine == "threads" and torch.device(device).type != "cpu":
        pytest.skip("threads are for CPUs")
    if engine == "lanes" and torch.device(device).type != "cpu":
        pytest.skip("the kernels of lanes are for CPUs")
    if engine == "implicit" and torch.device(device).type != "cuda":
        pytest.skip("the kernels of implicit are for GPUs, an interpreter's time says nothing")
    # TF32 would make the comparison at the end one of roundings
    torch.backends.cudnn.allow_tf32 = False
    shape, rounds = NETWORKS[network]
    # a plain loop over many modules takes seconds, and so does a large network
    warm_ups = 3 if agents <= 16 and network != SLOW_NETWORK else 1
    rounds = rounds if agents <= 16 else max(2, rounds // 8)
    images = torch.randn(agents, BATCH, *shape, device=device)
    labels = torch.randint(0, 10, (agents, BATCH), device=device)
    one = initial_models.build(network, shape, 10, seed=0).to(device)
    others = [initial_models.build(network, shape, 10, seed=0).to(device) for _ in range(agents)]
    stack = fs.AgentStack(one, agents)
    gradients = GradientEngine(stack, F.cross_entropy, engine)

    def single() -> None:
        one.zero_grad()
        F.cross_entropy(one(images.flatten(0, 1)), labels.flatten()).backward()

    def plain_loop() -> None:
        for model, batch, target in zip(others, images, labels, strict=True):
            model.zero_grad()
            F.cross_entropy(model(batch), target).backward()

    stacked = synchronized(lambda: gradients.gradients(images, labels), device)
    beside = {"single": synchronized(single, device), "loop": synchronized(plain_loop, device)}
    times: dict[str, list[float]] = {name: [] for name in beside}

    def interleaved() -> tuple[tuple[Any, ...], dict[str, Any]]:
        for name, work in beside.items():
            times[name].append(seconds(work))
        return (), {}

    for _ in range(warm_ups):
        interleaved()
        stacked()
    for each in times.values():
        each.clear()
    benchmark.pedantic(stacked, setup=interleaved, rounds=rounds)
    median = benchmark.stats.stats.median
    benchmark.extra_info.update(
        stacking_tax=round(median / statistics.median(times["single"]), 3),
        of_plain_loop=round(median / statistics.median(times["loop"]), 3),
        agents=agents,
        batch=BATCH,
        network=network,
        dim=stack.layout.dim,
        implementation=gradients.engine,
        asked=engine,
        device=device,
        threads=torch.get_num_threads(),
    )
    expected = torch.stack([torch.cat([p.grad.flatten() for p in m.parameters()]) for m in others])
    got = torch.cat([g.flatten(1) for _, g in stack.named_gradients()], dim=1)
    # rounding may move an input across the kink of a ReLU: single numbers differ then, the whole does not
    assert (got - expected).norm() <= 1e-3 * expected.norm()
