"""`fastsaddle info --model ...`: what memory the buffers of a run take, for each agent and for all, and its graph."""

from dataclasses import dataclass
from typing import Literal

import tyro

from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.schedule import LOOKED_AT
from fastsaddle.graphs.spectrum import described
from fastsaddle.sim import methods
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.help import with_help
from fastsaddle.sim.run import faults, suited_methods, topologies
from fastsaddle.sim.run.labels import label, of_agents
from fastsaddle.sim.run.memory_needed import kept_rows, shapes, size

MOST_AGENTS = 20_000


@with_help
@dataclass(frozen=True)
class MemoryQuestion:
    """Without options: versions, devices, backends, copy bandwidth. With them: a run's graph and its buffers' memory.

    Nothing of that size is allocated.
    """

    model: str = "mlp"
    """As for train: mlp, resnet20, file.py:Name, ..."""

    sample: str = "3x32x32"
    """Shape of one sample."""

    classes: int = 10
    """Classes of the data."""

    algorithm: str | None = None
    """As for train. None: whatever the graph, its facts; the memory is that of qsaddle where the graph suits it."""

    agents: int = 16
    """Number of agents."""

    topology: str = "ring"
    """As for train; methods with cross-gradients keep a row for each neighbor."""

    faults: str = "none"
    """As for train."""

    push_sum: bool = False
    """As for train."""

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
    config = config_of(question)
    if config.agents > MOST_AGENTS:
        raise ValueError(
            f"--agents must be at most {MOST_AGENTS:,}, whose graph is made for this, got {config.agents:,}"
        )
    layout, buffers = shapes(question.model, shape, question.classes)
    return [
        f"{label(question.model)}, samples of {question.sample}: {layout.dim:,} parameters, "
        f"{size(layout.stride * 4)} a row (padded, float32)",
        *_memory(config, question, layout.stride * 4, buffers),
        *_graph(config),
    ]


def _memory(config: TrainConfig, question: MemoryQuestion, row: int, buffers: int) -> list[str]:
    """What a method keeps: the one that was named, else the default one, where it takes the graph."""
    is_own = topologies.is_own(config.topology)
    if question.algorithm is None and is_own and not _suits(config):
        return ["what an agent keeps depends on the method: --algorithm NAME"]
    rows = kept_rows(config)
    each = rows * row + buffers
    return [
        f"{label(config.algorithm)} keeps {rows:g} rows an agent, parameters and gradients included: "
        f"{size(each)} an agent",
        f"{of_agents(config.agents)}: {size(each * config.agents)}, without activations "
        "(--chunk bounds those) and short-lived copies",
    ]


def _suits(config: TrainConfig) -> bool:
    """Whether the run's method takes its graph."""
    graph = topologies.find(config.topology, config.agents, config.seed)
    return suited_methods.suits(config.algorithm, graph, push_sum=config.push_sum)


def _graph(config: TrainConfig) -> list[str]:
    """Who talks to whom, where agents talk along a graph, what fails of it, and which methods take it."""
    if not methods.takes(config.algorithm, "topology") or config.agents > topologies.MOST_SEEN:
        return []
    graph = topologies.find(config.topology, config.agents, config.seed)
    said = [f"{label(config.topology)}: {topologies.facts(graph)}", topologies.degrees(graph)]
    failing = faults.over(config.faults, config.seed, graph)
    if isinstance(failing, Faulty):
        said.append(f"{faults.described(failing, config.faults, LOOKED_AT)}; {described(failing)}")
    if config.agents <= suited_methods.MOST_ASKED:
        said.append(suited_methods.told(failing))
    return said


def config_of(question: MemoryQuestion) -> TrainConfig:
    """A run of that kind. Raises ValueError for options that cannot be."""
    config = TrainConfig(
        algorithm=question.algorithm or TrainConfig.algorithm,
        agents=question.agents,
        topology=question.topology,
        faults=question.faults,
        push_sum=question.push_sum,
        compressor=question.compressor,
        sam=question.sam,
        state_dtype=question.state_dtype,
        # what D2 may ask for; of no consequence here
        consensus_step=0.5,
    )
    config.check()
    return config
