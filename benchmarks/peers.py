"""Agent-steps per second of fastsaddle beside the peers that are installed here.

    python benchmarks/peers.py [--agents 16 64 256 1024] [--seconds 10] [--repeats 5] [--out DIR]

An agent-step is one local step of one agent (SGD with momentum, batch of 32, 784-50-10) plus its share of the
communication. Every engine runs in a process of its own, with one thread on one core, evaluation off. All of one
size are started first and wait; then they take turns, so that a busy moment of the machine hits all alike and
starting up is not timed. Peers are measured where they are installed:

    pip install gossipy-dfl fluke-fl decent-dp 'pfl[pytorch]'
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import machine
from peers_process import EngineProcess

RESULTS = Path(__file__).resolve().parent / "results"
Kind = Literal["own", "loop", "rows", "peer", "peer on all cores", "peer without gossip"]


@dataclass(frozen=True)
class Engine:
    """One row of the table: the script of `peers/` that runs it, the package that it needs, what it does.

    `arguments` are more of the script's, behind agents and cores. `all_cores`: it has several processes, which may use
    every core; else it is kept on one.
    """

    name: str
    kind: Kind
    script: str
    package: str
    words: str
    arguments: tuple[str, ...] = ()
    all_cores: bool = False


ENGINES = (
    Engine(
        "fastsaddle",
        "own",
        "fastsaddle_ring.py",
        "fastsaddle",
        "Simulation with DSGDm, averages with both neighbors on the ring; draws its batches",
    ),
    Engine(
        "plain loop",
        "loop",
        "loop_ring.py",
        "torch",
        "a module and a fused torch.optim.SGD an agent, averages with both neighbors; fixed batches",
    ),
    Engine(
        "dense rows",
        "rows",
        "dense_rows.py",
        "torch",
        "agents as rows, a loop over them for gradients, product with the dense W; fixed batches",
    ),
    Engine(
        "decent-dp",
        "peer",
        "decent_ring.py",
        "decent-dp",
        "a process an agent, averages with one neighbor on the ring, in turn; fixed batches",
    ),
    Engine(
        "decent-dp, all cores",
        "peer on all cores",
        "decent_ring.py",
        "decent-dp",
        "the same on as many cores as there are",
        all_cores=True,
    ),
    Engine(
        "pfl",
        "peer without gossip",
        "pfl_fedavg.py",
        "pfl",
        "FedAvg: no gossip, a server averages all; momentum starts anew in each round",
    ),
    Engine(
        "gossipy",
        "peer",
        "gossipy_push.py",
        "gossipy-dfl",
        "pushes to one random neighbor; who receives averages with its own model and steps",
    ),
    Engine(
        "fluke",
        "peer",
        "fluke_gossip.py",
        "fluke-fl",
        "pushes to one random neighbor; who received takes the average of that and steps",
    ),
)


def version(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(
    agents: int,
    seconds: float,
    repeats: int,
    patience: float,
    engines: Sequence[Engine] = ENGINES,
) -> list[dict[str, Any]]:
    """All installed engines at one size, turn by turn."""
    processes: dict[Engine, EngineProcess] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            for number, engine in enumerate(engines):
                if version(engine.package) is not None:
                    print(f"{agents} agents: starting {engine.name}", file=sys.stderr, flush=True)
                    cores = "all-cores" if engine.all_cores else "one-core"
                    folder = Path(scratch) / str(number)
                    processes[engine] = EngineProcess(
                        engine.script, [str(agents), cores, *engine.arguments], folder, patience
                    )
            # the first turn warms up
            for process in processes.values():
                process.turn(0)
            turns: dict[Engine, list[dict[str, float]]] = {engine: [] for engine in processes}
            for _ in range(repeats):
                for engine, process in processes.items():
                    found = process.turn(seconds / repeats)
                    if found is not None:
                        turns[engine].append(found)
        finally:
            for process in processes.values():
                process.end()
    return [result(e, agents, process, turns[e]) for e, process in processes.items()]


def result(
    engine: Engine, agents: int, process: EngineProcess, turns: list[dict[str, float]]
) -> dict[str, Any]:
    """The figures of one engine at one size: steps a second, best and median, and a second of processor time."""
    found = {"engine": engine.name, "agents": agents, "note": process.note}
    if process.failure:
        return {**found, "failure": process.failure}
    rates = [turn["steps"] / turn["wall"] for turn in turns]
    return {
        **found,
        "best": max(rates),
        "median": statistics.median(rates),
        "a_cpu_second": max(turn["steps"] / turn["cpu"] for turn in turns),
        "start_up_seconds": process.start_up,
        "turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--agents", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=10, help="of each engine at each size")
    parser.add_argument("--repeats", type=int, default=5, help="turns in which these are spent")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for an answer")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of peers.json")
    options = parser.parse_args()
    content: dict[str, Any] = {
        "machine": machine.facts(),
        "agents": options.agents,
        "seconds": options.seconds,
        "repeats": options.repeats,
        "engines": [{**asdict(engine), "version": version(engine.package)} for engine in ENGINES],
        "results": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for agents in options.agents:
        content["results"] += measure(agents, options.seconds, options.repeats, options.patience)
        # what was measured is kept, should a later size be interrupted
        (options.out / "peers.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"for the tables: python -m benchmarks.reporting show peers --results {options.out}")


if __name__ == "__main__":
    main()
