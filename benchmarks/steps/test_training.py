"""Steps per second of `fastsaddle train` with ResNet-20 on pictures of CIFAR's shape, and the GPU memory it takes.

The run is started as the command does it, but without the command: its parser need not be installed.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.conftest import kind
from fastsaddle.sim.config import TrainConfig

# agents -> steps that are timed, after as many that warm up
STEPS = {16: 60, 64: 30, 256: 12, 1024: 4}
# agents mapped at once: activations of more do not fit
CHUNK = 128
GRAPHS = ("off", "on")
TINY = {"model": "mlp:3", "agents": 16, "steps": 2}


@pytest.fixture(scope="session")
def images(gpu_or_tiny: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An npz file of noise in the shape of CIFAR-10: speed does not depend on what there is to see."""
    source = np.random.default_rng(0)
    arrays = {}
    # enough for a batch of each of 1,024 agents; few to test on, which takes no part in the time
    for part, count in (("train", 2**10 if gpu_or_tiny else 2**15), ("test", 40)):
        arrays[f"x_{part}"] = source.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    path = tmp_path_factory.mktemp("images") / "noise.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("agents", STEPS)
def test_training(
    agents: int,
    graph: str,
    images: Path,
    tmp_path: Path,
    benchmark: Any,
    device: str,
    gpu_or_tiny: bool,
    request: pytest.FixtureRequest,
) -> None:
    is_gpu = kind(request.config) == "cuda"
    if graph == "on" and not is_gpu:
        pytest.skip("--cuda-graph on needs a GPU")
    if gpu_or_tiny and agents > TINY["agents"]:
        pytest.skip("one size shows that it runs")
    steps = TINY["steps"] if gpu_or_tiny else STEPS[agents]
    model = TINY["model"] if gpu_or_tiny else "resnet20"
    options: dict[str, Any] = {
        **{"dataset": "npz", "data_dir": images, "model": model, "partition": "iid"},
        **{"agents": agents, "chunk": min(agents, CHUNK), "device": device},
        **{"steps": 2 * steps, "eval_every": steps, "checkpoint_every": 2 * steps},
        **{"cuda_graph": graph, "out": tmp_path / "run"},
    }
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    benchmark.pedantic(train, args=(TrainConfig(**options),), rounds=1)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    benchmark.extra_info.update(
        training=model,
        algorithm=TrainConfig.algorithm,
        agents=agents,
        batch=TrainConfig.batch_size,
        graph=graph,
        steps_per_second=speed(rows),
        peak_bytes=torch.cuda.max_memory_allocated(device) if is_gpu else None,
        implementation="fastsaddle",
        device=device,
    )


def train(config: TrainConfig) -> None:
    """A run from its start to its end, and what it has to tell."""
    try:
        from fastsaddle.sim.run import job as jobs
        from fastsaddle.sim.run.trainer import run
    except ImportError as error:
        pytest.skip(f"training needs {error.name}")
    job = jobs.start(config)
    with closing(job.directory):
        run(job, [], lambda: False)
    print("\n".join(job.notes))


def speed(rows: list[dict[str, Any]]) -> float:
    """Steps a second between the last two lines of metrics.jsonl, evaluations left out."""
    before, last = rows[-2:]
    # the clock of a run is written in milliseconds
    seconds = max(last["step_seconds"] - before["step_seconds"], 1e-3)
    return round((last["step"] - before["step"]) / seconds, 3)
