"""What only a GPU can show; benchmarks/on_gpu.sh runs it. The `small` cases are for compute-sanitizer."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.kernels.op import Op, ops, use_backend
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.simulation import Simulation
from tests.sim.step_cases import METHODS, STEPS, assert_same, options_of, take

pytestmark = pytest.mark.gpu


def on_gpu(value: Any) -> Any:
    return value.cuda() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(
    "op", [op for op in ops().values() if "triton" in op.backends], ids=lambda op: op.name
)
def test_small_op(op: Op, seed: int) -> None:
    for arguments in op.examples(5, 160, torch.Generator().manual_seed(seed)).values():
        # the sanitizer sees an access behind a row only where the row is the allocation
        got = {
            n: on_gpu(v).contiguous() if isinstance(v, torch.Tensor) else v
            for n, v in arguments.items()
        }
        expected = copy.deepcopy(arguments)
        with use_backend("triton"):
            got["out"] = op(*got.values())
        with use_backend("reference"):
            expected["out"] = op(*expected.values())
        torch.cuda.synchronize()
        for name, value in got.items():
            if isinstance(value, torch.Tensor):
                assert op.agrees(name, arguments, value, expected[name]), name


def gradients_of(p: torch.Tensor, step: int) -> torch.Tensor:
    """Elementwise exact on every device: a fixed pattern plus a part of the model."""
    pattern = torch.arange(p.numel(), dtype=torch.float32).reshape(p.shape) % 17 - 8
    return (pattern * 2.0**-7 * (step % 3 + 1)).to(p.device) + p.detach() * 0.25


@pytest.mark.parametrize("method", ["DSGD", "DSGDm", "QGM"])
def test_trajectory_has_the_bits_of_the_cpu(method: str, seed: int) -> None:
    start = torch.randn(16, 1000, generator=torch.Generator().manual_seed(seed))
    models = [nn.Parameter(start.clone()), nn.Parameter(start.clone().cuda())]
    optimizers = [
        getattr(fs, method)([p], lr=0.1, topology="ring", weight_decay=1e-3) for p in models
    ]
    for step in range(12):
        for p, optimizer in zip(models, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 if step < 6 else 0.01
            p.grad.copy_(gradients_of(p, step))
            optimizer.step()
    assert torch.equal(models[0].detach(), models[1].detach().cpu())


def test_qsaddle_follows_the_cpu(seed: int) -> None:
    start = torch.randn(300, 640, generator=torch.Generator().manual_seed(seed))
    models = [nn.Parameter(start.clone()), nn.Parameter(start.clone().cuda())]
    optimizers = [fs.QSADDLe([p], lr=0.1, topology="ring", rho=0.1) for p in models]
    for step in range(8):
        for p, optimizer in zip(models, optimizers, strict=True):
            for half in (optimizer.perturb, optimizer.step):
                p.grad.copy_(gradients_of(p, step))
                half()
    assert (models[0].detach() - models[1].detach().cpu()).abs().max() < 1e-5


def test_a_non_finite_gradient_is_told_when_results_are_read() -> None:
    p = nn.Parameter(torch.randn(4, 64, device="cuda"))
    optimizer = fs.QGM([p], topology=fs.topology.from_matrix(torch.eye(4), allow_disconnected=True))
    before = p.detach().clone()
    p.grad.fill_(1.0)
    p.grad[2, 5] = float("nan")
    optimizer.step()
    assert torch.equal(p.detach()[2], before[2]) and not torch.equal(p.detach()[1], before[1])
    with pytest.raises(fs.NonFiniteGradientError, match=r"\[2\]"):
        optimizer.state_dict()


def test_step_is_captured_in_a_cuda_graph(seed: int) -> None:
    start = torch.randn(16, 4096, generator=torch.Generator().manual_seed(seed)).cuda()
    eager, captured = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [fs.QSADDLe([p], topology="ring") for p in (eager, captured)]

    def both_phases(p: nn.Parameter, optimizer: fs.QSADDLe) -> None:
        for half in (optimizer.perturb, optimizer.step):
            torch.mul(p.detach(), 0.5, out=p.grad)
            half()

    both_phases(eager, optimizers[0])
    both_phases(captured, optimizers[1])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both_phases(captured, optimizers[1])
    for _ in range(3):
        both_phases(eager, optimizers[0])
        graph.replay()
    assert torch.equal(eager.detach(), captured.detach())


def of_train(name: str, options: dict[str, Any], graph: str, engine: str) -> Simulation:
    model = {"model": "mlp:7"} if engine == "batched" else {}
    # whose draws a CPU reads
    random_k = {"compressor": "random-k:0.4", "consensus_step": 0.3}
    more = {**METHODS.get(name, random_k), "cuda_graph": graph, "engine": engine, **model}
    return Simulation(TrainConfig(**{**options, "algorithm": name.split(",")[0], **more}))


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        *((name, "vmap") for name in (*METHODS, "dsgd, random-k")),
        *((name, engine) for name in ("qsaddle", "nsaddle") for engine in ("loop", "batched")),
    ],
)
def test_train_in_a_graph_has_the_bits_of_eager_steps(
    name: str, engine: str, tmp_path: Path, seed: int
) -> None:
    options = options_of(tmp_path, seed, "cuda")
    eager, captured = (of_train(name, options, graph, engine) for graph in ("off", "on"))
    losses = take(eager, 0, STEPS), take(captured, 0, STEPS)
    assert [loss.item() for loss in losses[0]] == [loss.item() for loss in losses[1]]
    assert_same(eager, captured)
    assert eager.evaluate() == captured.evaluate()


def test_captured_steps_wait_for_nothing(tmp_path: Path, seed: int) -> None:
    options = options_of(tmp_path, seed, "cuda")
    captured = of_train("qsaddle", options, "on", "vmap")
    take(captured, 0, 5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(captured, 5, STEPS)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_run_goes_on_and_is_laid_out_anew(tmp_path: Path, seed: int) -> None:
    options = options_of(tmp_path, seed, "cuda")
    eager, captured, again = (
        of_train("qsaddle, 8 bits", options, graph, "vmap") for graph in ("off", "on", "on")
    )
    for made in (eager, captured):
        take(made, 0, 4)
    again.restore({n: t.clone() for n, t in captured.tensors().items()}, captured.counters())
    for made in (eager, captured, again):
        take(made, 4, STEPS)
        parameter = next(iter(made.stack.parameters()))
        parameter.data = parameter.data.clone()
        take(made, 1, 6)
        assert_same(eager, made)


def test_resumed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    common = ("--agents", "4", "--batch-size", "8", "--steps", "12", "--checkpoint-every", "4")
    last = "checkpoint-12.safetensors"
    for graph in ("on", "off"):
        run = ("--cuda-graph", graph, "--out", str(tmp_path / graph))
        assert main(["train", *common, "--device", "cuda", *run]) == 0
    whole = (tmp_path / "off" / last).read_bytes()
    assert (tmp_path / "on" / last).read_bytes() == whole
    (tmp_path / "on" / last).unlink()
    assert main(["train", "--resume", str(tmp_path / "on")]) == 0
    assert (tmp_path / "on" / last).read_bytes() == whole


def test_a_capture_that_fails_is_told(tmp_path: Path) -> None:
    """In a process of its own, whose device may be left in disorder."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self, shape, classes):\n        super().__init__()\n"
        "        self.layer = nn.Linear(64, classes)\n\n    def forward(self, x):\n"
        "        return self.layer(x.flatten(1)) * (1.0 if x.sum().item() else 2.0)\n"
    )
    options = ("--model", f"{tmp_path / 'net.py'}:Net", "--engine", "loop", "--steps", "6")
    command = ("-m", "fastsaddle", "train", *options, "--cuda-graph", "on", "--device", "cuda")
    run = (sys.executable, *command, "--out", str(tmp_path / "run"))
    root = Path(__file__).parents[2]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "cannot be captured in a CUDA graph, train with --cuda-graph off: " in done.stderr


def test_more_elements_than_32_bits_count() -> None:
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GB of free GPU memory")
    agents, columns = 3, 2**30
    x = torch.zeros(agents, columns, device="cuda")
    x[2, -1], x[1, 0] = 3.0, 6.0
    out = torch.full_like(x, float("nan"))
    neighbors, weights = (part.cuda() for part in fs.topology.ring(agents).mixing_lists())
    ops()["mix_neighbors"](x, out, neighbors, weights)
    assert out[0, -1] == out[2, -1] and 0.99 < out[0, -1] < 1.01 and 1.99 < out[2, 0] < 2.01
    assert int(out.count_nonzero()) == 2 * agents
