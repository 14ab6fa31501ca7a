"""Whether steps are captured: what stands against it, what is told and stored, and that progress does not wait."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.commands import train as train_command
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import graph_choice
from fastsaddle.sim.run.graph_choice import resolve
from fastsaddle.sim.run.job import start
from fastsaddle.sim.run.progress import Progress
from fastsaddle.sim.run.run_dir import RunDirectory
from fastsaddle.sim.run.step_graph import StepGraph
from fastsaddle.sim.run.summary import describe
from tests.sim.step_recorder import CpuRecorder

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
# which engines ask for, and graphs do not
LAYER = "lane_convolution"
TINY = ("--agents", "3", "--batch-size", "4", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def all_kernels_on_triton(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """As where there is a GPU; the test may change it."""
    backends = dict.fromkeys(("gossip_step", "agent_norm"), "triton") | {LAYER: "reference"}

    def ops() -> dict[str, Any]:
        return {
            name: SimpleNamespace(choice=lambda device, b=b: b, is_layer=name == LAYER)
            for name, b in backends.items()
        }

    monkeypatch.setattr(graph_choice, "ops", ops)
    return backends


def optimizer(method: str = "QSADDLe", **options: Any) -> Any:
    return getattr(fs, method)([torch.nn.Parameter(torch.ones(3, 7))], topology="ring", **options)


def test_auto_takes_a_graph_on_a_gpu() -> None:
    auto = TrainConfig()
    assert resolve(auto, GPU, optimizer(), "vmap") == ("on", "every step is alike")
    assert resolve(auto, CPU, optimizer(), "vmap") == ("off", "it needs a GPU, got cpu")
    asked = replace(auto, cuda_graph="off")
    assert resolve(asked, GPU, optimizer(), "vmap") == ("off", "asked for")
    asked = replace(auto, cuda_graph="on")
    assert resolve(asked, GPU, optimizer(), "vmap") == ("on", "asked for")


@pytest.mark.parametrize(
    ("options", "sam", "engine", "rule"),
    [
        ({}, fs.LookSAM(3), "vmap", "LookSAM counts on the host which steps take one gradient"),
        ({"ccl_data": 0.1}, None, "loop", "the loop engine reads on the host whose features"),
    ],
)
def test_what_stands_against_it(options: Any, sam: Any, engine: str, rule: str) -> None:
    config, method = TrainConfig(**options), optimizer(sam=sam)
    state, reason = resolve(config, GPU, method, engine)
    assert state == "off" and reason.startswith(rule)
    with pytest.raises(ValueError, match=f"^--cuda-graph on cannot be: {rule}"):
        resolve(replace(config, cuda_graph="on"), GPU, method, engine)


def test_other_backends_stand_against_it(all_kernels_on_triton: dict[str, str]) -> None:
    all_kernels_on_triton["agent_norm"] = "reference"
    reason = "kernels must run on the backend triton, these do not: agent_norm"
    assert resolve(TrainConfig(), GPU, optimizer(), "vmap") == ("off", reason)
    with pytest.raises(ValueError, match=reason):
        resolve(TrainConfig(cuda_graph="on"), GPU, optimizer(), "vmap")


@pytest.mark.parametrize("name", ["algorithm", "model", "compressor"])
def test_code_of_ones_own_is_left_out_unless_asked_for(name: str) -> None:
    options: dict[str, Any] = {name: "mine.py:Mine:3"}
    own = TrainConfig(**options)
    state, reason = resolve(own, GPU, optimizer(), "vmap")
    assert state == "off" and reason.startswith(f"--{name} Mine:3 may decide on the host")
    assert resolve(replace(own, cuda_graph="on"), GPU, optimizer(), "vmap")[0] == "on"


def test_what_was_resolved_is_stored_and_used_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", *TINY, "--steps", "4", "--out", str(run)]) == 0
    record = json.loads((run / "config.json").read_text())
    assert record["cuda_graph"] == "off"
    assert record["cuda_graph_reason"] == "it needs a GPU, got cpu"
    # a run of a version that had no graphs goes on without one
    del record["cuda_graph"], record["cuda_graph_reason"]
    (run / "config.json").write_text(json.dumps(record))
    directory = RunDirectory(run)
    assert directory.options.cuda_graph == "off"
    directory.close()


def test_what_a_run_tells_about_it(tmp_path: Path) -> None:
    job = start(TrainConfig(agents=3, device="cpu", steps=1, out=tmp_path / "run"))
    assert "raph" not in describe(job)[2]
    simulation = job.simulation
    simulation.device = GPU
    assert "no CUDA graph (it needs a GPU, got cpu); writing to" in describe(job)[2]
    simulation.graph = StepGraph(simulation, CpuRecorder())
    assert "backend" in describe(job)[2] and ", steps in a CUDA graph; writing" in describe(job)[2]
    job.directory.close()


def test_a_failed_capture_ends_a_run_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin(config: TrainConfig, world: None) -> Any:
        job = start(config, world)
        # which reads each norm on a CPU
        job.simulation.graph = StepGraph(job.simulation, CpuRecorder())
        return job

    monkeypatch.setattr(train_command.jobs, "start", begin)
    run = tmp_path / "run"
    options = ("--steps", "6", "--checkpoint-every", "2", "--out", str(run))
    assert main(["train", *TINY, *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "fastsaddle: error: step 3: this step cannot be captured in a CUDA graph"
    )
    assert "train with --cuda-graph off: RefusedError: " in said and said.count("\n") == 1
    assert (run / "checkpoint-2.safetensors").exists()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_does_not_wait_for_each_step(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss is read ten times a second at most, and only where somebody sees it."""
    now = [100.0]
    monkeypatch.setattr("fastsaddle.sim.run.progress.time.perf_counter", lambda: now[0])
    reads = []
    loss: Any = SimpleNamespace(item=lambda: float(reads.append(now[0]) or 1.0))
    console = Console(file=io.StringIO(), force_terminal=is_terminal)
    with Progress(console, 1000, 0) as progress:
        for step in range(1000):
            now[0] += 0.003
            progress.show_step(step + 1, loss, 0.003 * (step + 1))
    assert progress.step == 1000
    assert len(reads) == 0 if not is_terminal else 20 <= len(reads) <= 31


def test_the_rate_is_of_steps_alone() -> None:
    """Ten steps of a tenth of a second each, an evaluation of an hour between them, forty done in a sitting before."""
    console = Console(file=io.StringIO())
    loss: Any = SimpleNamespace(item=lambda: 1.0)
    row = dict.fromkeys(("consensus_accuracy", "mean_accuracy", "worst_accuracy"), 0.5)
    row |= {"loss": 1.0, "consensus_distance": 1.0, "bytes_sent": 0, "step": 45}
    with Progress(console, 100, 40, seconds=7.0) as progress:
        for step in range(40, 50):
            progress.show_step(step + 1, loss, 7.0 + 0.1 * (step - 39))
            if step == 44:
                progress.show_evaluation(row | {"step_seconds": 7.5, "seconds": 3607.5})
    assert progress.steps_per_second == pytest.approx(10)
