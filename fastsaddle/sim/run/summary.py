"""What a run tells about itself: what it is, how to go on with it, how it ended."""

import shlex
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsaddle.graphs import spectrum
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.needs import KINDS
from fastsaddle.graphs.schedule import kind_of
from fastsaddle.sim import methods
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import checkpoint, faults, independence, topologies
from fastsaddle.sim.run.job import CLASSES, CURVES, Job
from fastsaddle.sim.run.labels import Labels, label, of_agents, of_engine, of_gradient
from fastsaddle.sim.run.progress import number, percent

# share of a run's time that evaluations may have without a word on it
MUCH = 0.5


def describe(job: Job) -> list[str]:
    """What is about to run, in a few lines."""
    config, simulation, labels = job.config, job.simulation, Labels([job.config])
    split = simulation.data.partition
    backends = sorted(set(job.directory.config.get("backend", {}).values()))
    return [
        f"{method(config, labels)}: {of_agents(config.agents)}, {who_talks(job)}, "
        f"{labels.of('model', config.model)} with "
        f"{simulation.stack.layout.dim:,} parameters",
        f"{labels.of('dataset', config.dataset)}: {len(simulation.dataset.train_labels):,} training samples, "
        f"{split_name(config, labels)} gives {split.mean_classes:.1f} classes an agent, "
        f"{split.mean_top_share:.0%} of its samples in the largest",
        *_messages(job),
        *_push_sum(job),
        *_faults(job),
        f"{config.device}, {of_engine(config.engine, config.threads)}, "
        f"{config.precision}, backend {' and '.join(backends)}{_graph(job)}; writing to {job.directory.path}",
        *_spread(job),
        *([f"going on at step {job.step} of {config.steps}"] if job.step else []),
    ]


def _spread(job: Job) -> list[str]:
    """A line on which process has which agents, where there are several."""
    world = job.simulation.world
    if world is None:
        return []
    counts = ", ".join(map(str, world.placement.counts))
    text = f"{len(world.placement.counts)} processes with {counts} agents"
    if job.directory.config.get("bits") == independence.PLACEMENT:
        text += "; the bits are those of this placement alone"
    return [text]


def who_talks(job: Job) -> str:
    """The graph and how fast gossip mixes on it, or how often all agents are averaged."""
    if methods.takes(job.config.algorithm, "topology"):
        graph = job.simulation.topology
        text = job.config.topology
        # a built-in name may leave sizes and seeds open, which the graph's has
        name = label(text) if topologies.is_own(text) else graph.name
        return f"{name} ({spectrum.described(graph)})"
    period = job.config.period
    return "averaged by QSR" if period.startswith("qsr") else f"averaged every {period} steps"


def _graph(job: Job) -> str:
    """Whether steps are captured in a CUDA graph, and why not; nothing on a CPU, which has none."""
    simulation = job.simulation
    if simulation.graph is not None:
        return ", steps in a CUDA graph"
    if simulation.device.type == "cpu":
        return ""
    reason = job.directory.config.get("cuda_graph_reason", "it began without one")
    return f", no CUDA graph ({reason})"


def _faults(job: Job) -> list[str]:
    """A line on what fails, where something may."""
    simulation = job.simulation
    if not isinstance(simulation.topology, Faulty):
        return []
    rounds = simulation.optimizer.communicator.gossips_begun(simulation.steps)
    return [faults.described(simulation.topology, job.config.faults, rounds)]


def _push_sum(job: Job) -> list[str]:
    """A line where push-sum is asked for, but all weights stay one."""
    if not job.config.push_sum or kind_of(job.simulation.topology) not in KINDS:
        return []
    return [
        f"push-sum changes nothing here: W of {label(job.config.topology)} is doubly stochastic in each round"
    ]


def _messages(job: Job) -> list[str]:
    """A line on what a message is, where models are not sent whole."""
    choco, layout = job.config.choco, job.simulation.stack.layout
    if choco is None:
        return []
    sent, whole = choco.compressor.message_bytes(layout), 4 * layout.dim
    how = f"{job.config.gossip_order}, consensus step {job.config.consensus_step:g}"
    return [
        f"{label(job.config.compressor)}: {sent:,} bytes a message, {sent / whole:.3f} of float32's; {how}"
    ]


def title(job: Job) -> str:
    """The run's name and what it did, for its figures."""
    return f"{job.directory.path.resolve().name}\n{headline(job.config)}"


def headline(c: TrainConfig) -> str:
    """What a run does, in a line."""
    labels = Labels([c])
    what = (
        method(c, labels),
        of_agents(c.agents),
        *([labels.of("topology", c.topology)] if methods.takes(c.algorithm, "topology") else []),
        *([] if c.faults == faults.NONE else [f"faults {labels.of('faults', c.faults)}"]),
        *([] if c.choco is None else [labels.of("compressor", c.compressor)]),
        labels.of("dataset", c.dataset),
        split_name(c, labels),
        f"seed {c.seed}",
    )
    return ", ".join(what)


def method(config: TrainConfig, labels: Labels) -> str:
    """The algorithm, and what else is said of it."""
    found = str(labels.of("algorithm", config.algorithm))
    if gradients := of_gradient(labels.of("gradient", config.gradient)):
        found += f" with {gradients}"
    return f"{found}, {config.option.replace('=', ' ')}" if config.option else found


def split_name(config: TrainConfig, labels: Labels) -> str:
    """The partition with its concentration, where it has one, and what else makes agents unlike."""
    partition = labels.of("partition", config.partition)
    split = f"{partition}({config.alpha:g})" if config.has_alpha else partition
    skew = labels.of("feature_skew", config.feature_skew)
    return split if skew is None else f"{split} with {skew}"


def resume_command(job: Job) -> str:
    """The command line that goes on with this run."""
    return f"fastsaddle train --resume {shlex.quote(str(job.directory.path))}"


def _evaluations(row: dict[str, Any]) -> str:
    """What evaluations took of a run's time, and what takes less where it is most of it."""
    # an earlier version, which did not count them, may have written the last row
    seconds = row.get("evaluation_seconds", 0.0)
    share = seconds / max(row["seconds"], 1e-9)
    text = f"{seconds:,.3g} s, {share:.0%} of all"
    return text if share < MUCH else f"{text} (less with a larger --eval-every)"


def summarize(job: Job, steps_per_second: float, console: Console) -> None:
    """A table of the last evaluation, and where everything was written."""
    row = job.directory.rows[-1]
    best = max(job.directory.rows, key=lambda other: other["consensus_accuracy"])
    sent = row["bytes_sent"] / 1e6
    backends = sorted(set(job.directory.config.get("backend", {}).values()))
    table = Table(title=f"after step {row['step']}", show_header=False)
    for name, value in (
        ("consensus accuracy", percent(row["consensus_accuracy"])),
        (f"best, at step {best['step']}", percent(best["consensus_accuracy"])),
        ("mean accuracy of the agents", percent(row["mean_accuracy"])),
        ("worst accuracy of the agents", percent(row["worst_accuracy"])),
        ("consensus distance", number(row["consensus_distance"])),
        ("compressor", escape(label(job.config.compressor))),
        ("sent per agent", f"{sent / job.config.agents:.2f} MB"),
        ("sent in total", f"{sent:.2f} MB"),
        ("speed", f"{steps_per_second:.4g} steps/s"),
        ("time of steps", f"{row.get('step_seconds', 0.0):,.3g} s"),
        ("time of evaluations", _evaluations(row)),
        (
            "gradient evaluations per agent",
            f"{row['gradient_evaluations'] / job.config.agents:,.10g}",
        ),
        ("engine", job.config.engine),
        ("backend", " and ".join(backends)),
    ):
        table.add_row(name, value)
    console.print(table)
    checkpoints = [path.name for _, path in checkpoint.find(job.directory.path)]
    fallen = [] if job.config.faults == faults.NONE else [faults.FILE]
    files = "config.json", "partition.json", "metrics.jsonl", *fallen, CURVES, CLASSES, *checkpoints
    for name in files:
        print(job.directory.path / name)
