"""Whether time and memory of a step grow linearly with the number of agents.

    python benchmarks/growth.py --data-dir DIR [--agents 64 128 256 512 1024] [--threads 1 2]

Q-SADDLe on a ring, Fashion-MNIST split by Dirichlet(0.1), 784-32-10, batches of 32, on the CPU. Every size runs in a
process of its own, several times over, in turns; the best pass counts. Time is the median of a pass's steps; memory is
the peak of the resident memory over what was resident right before the agents were built, read from Linux's /proc.
Both are divided by what the smallest size extrapolates to: 1 is linear.
"""

import argparse
import itertools
import json
import multiprocessing
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import machine
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.data.batches import AgentBatches
from fastsaddle.sim.data.datasets.fashion_mnist import fashion_mnist
from fastsaddle.sim.data.partitions.dirichlet import dirichlet
from fastsaddle.sim.data.samples import Samples
from fastsaddle.sim.gradient_engine import GradientEngine

RESULTS = Path(__file__).resolve().parent / "results"
BATCH, HIDDEN, CLASSES, ALPHA = 32, 32, 10, 0.1


class Training:
    """So many agents and their data; `step` is one round of Q-SADDLe."""

    def __init__(self, inputs: Samples, labels: Tensor, agents: int, chunk: int | None) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
        )
        self.inputs, self.labels = inputs, labels
        stack = fs.AgentStack(network, agents)
        self.engine = GradientEngine(stack, F.cross_entropy, chunk=chunk)
        self.optimizer = fs.QSADDLe(
            stack.parameters(), lr=0.01, topology="ring", rho=0.05, momentum=0.9
        )
        parts = dirichlet(labels.numpy(), agents, seed=0, alpha=ALPHA)
        self.batches = AgentBatches(parts, BATCH, seed=0)

    def step(self, number: int) -> None:
        chosen = self.batches.at(number)
        inputs, labels = self.inputs.gather(chosen), self.labels[chosen]
        self.optimizer.step(lambda: self.engine.gradients(inputs, labels).mean())


def measure(
    data_dir: Path, agents: int, threads: int, seconds: float, chunk: int | None
) -> dict[str, Any]:
    """One size, in this process: seconds of the steps (median, least), bytes at the peak."""
    torch.set_num_threads(threads)
    data = fashion_mnist(data_dir)
    # libraries load what they need at their first step, which is no agent's memory
    small = Training(data.train, data.train_labels, 2, chunk)
    for number in range(2):
        small.step(number)
    del small
    before = resident("VmRSS")
    # from here on the peak counts anew
    Path("/proc/self/clear_refs").write_text("5")
    training = Training(data.train, data.train_labels, agents, chunk)
    for number in range(3):
        training.step(number)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 7:
        begin = time.perf_counter()
        training.step(3 + len(times))
        times.append(time.perf_counter() - begin)
    return {
        "agents": agents,
        "threads": threads,
        "median_seconds": statistics.median(times),
        "least_seconds": min(times),
        "steps": len(times),
        "peak_bytes": resident("VmHWM") - before,
    }


def resident(name: str) -> int:
    """Resident memory of this process in bytes: now (VmRSS) or at its peak (VmHWM)."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status must have {name}, and has not")
    return 1024 * int(found[1])


def over_linear(passes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best of the passes of every size and number of threads, over the extrapolation from the smallest size."""
    rows: list[dict[str, Any]] = []
    for threads in sorted({p["threads"] for p in passes}):
        mine = [p for p in passes if p["threads"] == threads]
        for agents in sorted({p["agents"] for p in mine}):
            same = [p for p in mine if p["agents"] == agents]
            seconds = min(p["median_seconds"] for p in same)
            memory = min(p["peak_bytes"] for p in same)
            row = {"threads": threads, "agents": agents, "seconds": seconds, "bytes": memory}
            first = next((r for r in rows if r["threads"] == threads), row)
            factor = agents / first["agents"]
            row["time_over_linear"] = seconds / (first["seconds"] * factor)
            row["memory_over_linear"] = memory / (first["bytes"] * factor)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="where Fashion-MNIST lies")
    parser.add_argument("--agents", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4, help="of steps in each pass")
    parser.add_argument("--passes", type=int, default=3, help="over all sizes")
    parser.add_argument("--chunk", type=int, help="agents mapped at once; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of growth.json")
    options = parser.parse_args()
    content = {"machine": machine.facts(), "chunk": options.chunk, "passes": [], "rows": []}
    context = multiprocessing.get_context("spawn")
    options.out.mkdir(parents=True, exist_ok=True)
    for _ in range(options.passes):
        for agents, threads in itertools.product(options.agents, options.threads):
            arguments = (options.data_dir, agents, threads, options.seconds, options.chunk)
            with ProcessPoolExecutor(1, mp_context=context) as executor:
                content["passes"].append(executor.submit(measure, *arguments).result())
        content["rows"] = over_linear(content["passes"])
        # a pass that is done is kept, should a later one be interrupted
        (options.out / "growth.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"for the tables: python -m benchmarks.reporting show growth --results {options.out}")


if __name__ == "__main__":
    main()
