"""`fastsaddle info --model ...`: how much memory the buffers of a run take, for each agent and for all."""

from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import nn

import fastsaddle as fs
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.sim import methods
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import initial_models, topologies
from fastsaddle.sim.run.labels import label
from fastsaddle.sim.run.simulation import optimizer_options

UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


@dataclass(frozen=True)
class MemoryQuestion:
    """Without options: versions, devices, backends and copy bandwidth. With them: the memory of a run's buffers.

    Nothing of that size is allocated.
    """

    model: str
    """As for train: mlp, resnet20, file.py:Name, ..."""

    sample: str = "3x32x32"
    """Shape of one sample."""

    classes: int = 10
    """Classes of the data."""

    algorithm: str = "qsaddle"
    """As for train."""

    agents: int = 16
    """Number of agents."""

    topology: str = "ring"
    """As for train; methods with cross-gradients keep a row for each neighbor."""

    compressor: str = "none"
    """As for train."""

    sam: str = "full"
    """As for train."""

    state_dtype: Literal["float32", "bfloat16"] = "float32"
    """As for train; a row of bfloat16 counts half."""


def main(arguments: list[str]) -> int:
    """Print the answer. Raises ValueError for options that cannot be."""
    question = tyro.cli(MemoryQuestion, args=arguments, prog="fastsaddle info")
    print("\n".join(describe(question)))
    return 0


def describe(question: MemoryQuestion) -> list[str]:
    """Rows an agent keeps, their bytes, and those of all agents."""
    try:
        shape = tuple(map(int, question.sample.split("x")))
    except ValueError as error:
        raise ValueError(
            f"--sample must be sizes such as 3x32x32, got {question.sample!r}"
        ) from error
    network = initial_models.build(question.model, shape, question.classes, seed=0)
    layout = FlatLayout.pack([[p.shape for p in network.parameters()]])
    buffers = sum(b.nbytes for b in network.buffers())
    rows, algorithm = kept_rows(question), label(methods.spelled(question.algorithm))
    each = rows * layout.stride * 4 + buffers
    return [
        f"{label(question.model)}, samples of {question.sample}: {layout.dim:,} parameters, "
        f"{size(layout.stride * 4)} a row (padded, float32)",
        f"{algorithm} keeps {rows:g} rows an agent, parameters and gradients included: "
        f"{size(each)} an agent",
        f"{question.agents:,} agents: {size(each * question.agents)}, without activations "
        "(--chunk bounds those) and short-lived copies",
    ]


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a whole part."""
    unit = next((u for u in ("GB", "MB") if count >= UNITS[u]), "kB")
    return f"{count / UNITS[unit]:.2f} {unit}"


def kept_rows(question: MemoryQuestion) -> float:
    """Rows that an optimizer keeps for each agent, bfloat16 ones counting half, found on a network of one parameter."""
    config = TrainConfig(
        algorithm=question.algorithm,
        agents=question.agents,
        topology=question.topology,
        compressor=question.compressor,
        sam=question.sam,
        state_dtype=question.state_dtype,
        # what D2 may ask for; of no consequence here
        consensus_step=0.5,
    )
    config.check()
    stack = fs.AgentStack(nn.Linear(1, 1, bias=False), question.agents)
    graph = topologies.find(config.topology, config.agents, config.seed)
    options = optimizer_options(config, graph, config.steps)
    optimizer = methods.build(question.algorithm, list(stack.parameters()), **options)
    return resident_bytes(optimizer) / (question.agents * stack.layout.stride * 4)


def resident_bytes(optimizer: Optimizer) -> int:
    """Bytes of the buffers of whole rows that an optimizer keeps between steps, each counted once."""
    rows = optimizer.rows
    kept = [v for v in optimizer.made.values() if isinstance(v, torch.Tensor)]
    held = (rows.x, rows.g, *optimizer.flat_state.values(), *kept)
    wide = (t for t in held if t.dim() == 2 and t.shape[1] == rows.layout.stride)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in wide}
    return sum(storages.values())
