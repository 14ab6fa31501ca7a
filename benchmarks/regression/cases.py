"""What is timed of a commit: each op on each backend that runs here, each optimizer's step, steps of the simulator.

The package that is imported may be an earlier one: what it lacks or refuses is a case that fails, and no more.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastsaddle as fs
from benchmarks.kernels.test_ops import DRAWN, HALF, HALF_OPS, widened
from fastsaddle.kernels.op import Op, ops, use_backend

# agents, parameters of one agent: a step bound by its calls, and one bound by its caches
SMALL, LARGE = (16, 4_000), (16, 100_000)
BACKENDS = ("native", "triton", "reference")
# what the simulator trains: batches of 32 of 1x28x28, from the images of `noise`
NETWORKS = ("mlp", "lenet5")
AGENTS = 16
# for those who do not talk along a ring
RELAY, AVERAGING = ("RelaySGD",), ("LocalSGD", "DPPF", "EASGD")

Work = Callable[[], Any]


def cases(noise: Path, threads: int) -> dict[str, Callable[[], Work]]:
    """name -> what makes the work that is timed. `noise` is the file of images to train on."""
    return {
        **dict(_of_ops()),
        **dict(_of_optimizers()),
        **{f"simulated step, {n}": partial(_simulated, n, noise, threads) for n in NETWORKS},
    }


def _of_ops() -> Iterator[tuple[str, Callable[[], Work]]]:
    for op in (op for op in ops().values() if not op.is_layer):
        missing = op.unavailable("cpu")
        for backend in (b for b in BACKENDS if b not in missing):
            # the reference is the specification: it need not be fast
            for agents, dim in (SMALL, LARGE) if backend == "native" else (SMALL,):
                for variant in (None, *([HALF] if op.name in HALF_OPS else [])):
                    what = op.name if variant is None else f"{op.name} bfloat16"
                    name = f"{what}, {backend}, {agents} x {dim:,}"
                    yield name, partial(_op, op, backend, variant, agents, dim)


def _op(op: Op, backend: str, variant: str | None, agents: int, dim: int) -> Work:
    examples = op.examples(agents, DRAWN, torch.Generator().manual_seed(0))
    example = next(iter(examples.values())) if variant is None else examples[variant]
    arguments = [*widened(op, example, dim, "cpu").values()]

    def work() -> None:
        with use_backend(backend):
            op(*arguments)

    return work


def _of_optimizers() -> Iterator[tuple[str, Callable[[], Work]]]:
    public = {name: getattr(fs, name) for name in fs.__all__}
    for name, method in public.items():
        is_method = inspect.isclass(method) and issubclass(method, fs.Optimizer)
        if is_method and method is not fs.Optimizer:
            for agents, dim in (SMALL, LARGE):
                yield f"{name}.step, {agents} x {dim:,}", partial(_step, method, agents, dim)


def _step(method: type[fs.Optimizer], agents: int, dim: int) -> Work:
    name = method.__name__
    talk: dict[str, Any] = {"topology": "chain" if name in RELAY else "ring"}
    if name in AVERAGING:
        # synchronizing in every step, so that all are alike
        talk = {"agents": agents, "period": 1}
    parameters = [nn.Parameter(torch.randn(agents, dim // 4)) for _ in range(4)]
    optimizer = method(parameters, lr=0.01, **talk)
    gradients = [1e-2 * torch.randn_like(p) for p in parameters]
    loss = torch.zeros(())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        for p, gradient in zip(parameters, gradients, strict=True):
            assert p.grad is not None
            p.grad.copy_(gradient)
        return loss

    return lambda: optimizer.step(closure)


def _simulated(network: str, noise: Path, threads: int) -> Work:
    # needs the packages of [sim], the others do not
    from fastsaddle.sim.config import TrainConfig
    from fastsaddle.sim.run.simulation import Simulation

    options = {"dataset": "npz", "data_dir": noise, "partition": "iid", "algorithm": "dsgdm"}
    config = TrainConfig(
        **options, model=network, agents=AGENTS, lr=1e-3, steps=10**6, threads=threads
    )
    simulation = Simulation(config)
    steps = iter(range(config.steps))
    return lambda: simulation.step(next(steps))
