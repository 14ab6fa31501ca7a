"""GPU memory and time of one step of 4,096 agents with ResNet-20, outside the closures, against plain PyTorch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import fastsaddle as fs
from benchmarks import baselines
from benchmarks.conftest import needs, synchronized
from benchmarks.steps.test_optimizer_step import RATES, whole_step
from fastsaddle.sim.run import initial_models

AGENTS, NETWORK, SHAPE = 4096, "resnet20", (3, 32, 32)
TINY_AGENTS, TINY_NETWORK = 5, "mlp:3"
# rows of an agent that the hungriest of them may hold at once
ROWS = 12
CASES = [
    ("QSADDLe", "fastsaddle"),
    ("QSADDLe", "eager, shifted rows"),
    ("QSADDLe", "eager, dense W"),
    ("QSADDLe", "torch.compile"),
    ("DSGDm", "fastsaddle"),
    ("DSGDm", "torch.optim.SGD, dense W"),
]


def own(method: str, network: torch.nn.Module, agents: int) -> Callable[[], None]:
    """fastsaddle's step on an agent stack, whose buffers the optimizer takes over."""
    stack = fs.AgentStack(network, agents)
    for _, gradient in stack.named_gradients():
        gradient.normal_(std=1e-2)
    options = {"momentum": baselines.BETA} if method == "DSGDm" else {}
    return whole_step(getattr(fs, method)(stack.parameters(), topology="ring", **RATES, **options))


def plain(implementation: str, x: torch.Tensor, g: torch.Tensor) -> Callable[[], None]:
    """The same update of `[agents, dim]` in PyTorch; in place."""
    W = fs.topology.ring(len(x)).W.float().to(x.device)
    if implementation == "torch.optim.SGD, dense W":
        return baselines.sgd_and_gossip(x, g, W)
    momentum, saved = torch.zeros_like(x), torch.zeros_like(x)
    update = baselines.ring_qgm
    if implementation == "eager, dense W":
        update = partial(baselines.eager_qgm, W=W)
    step = baselines.eager_qsaddle
    if implementation == "torch.compile":
        torch.compiler.reset()
        step = baselines.compiled(step)
    return lambda: step(x, g, momentum, saved, update)


@pytest.mark.parametrize(("method", "implementation"), CASES)
def test_step_memory(
    method: str, implementation: str, benchmark: Any, device: str, gpu_or_tiny: bool
) -> None:
    agents, name = (TINY_AGENTS, TINY_NETWORK) if gpu_or_tiny else (AGENTS, NETWORK)
    network = initial_models.build(name, SHAPE, 10, seed=0).to(device)
    dim = sum(p.numel() for p in network.parameters())
    needs(ROWS * agents * dim * 4, device)
    is_gpu = torch.device(device).type == "cuda"
    before = torch.cuda.memory_allocated(device) if is_gpu else 0
    if implementation == "fastsaddle":
        step = own(method, network, agents)
    else:
        x = torch.randn(agents, dim, device=device)
        step = plain(implementation, x, torch.full_like(x, 1e-2))
    once = synchronized(step, device)
    for _ in range(2):
        once()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    benchmark.pedantic(once, rounds=5)
    benchmark.extra_info.update(
        method=method,
        network=name,
        implementation=implementation,
        agents=agents,
        dim=dim,
        row_bytes=agents * dim * 4,
        kept_bytes=torch.cuda.memory_allocated(device) - before if is_gpu else None,
        peak_bytes=torch.cuda.max_memory_allocated(device) - before if is_gpu else None,
        step_milliseconds=round(1e3 * benchmark.stats.stats.median, 3),
        device=device,
    )
