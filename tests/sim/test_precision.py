"""Precisions: bfloat16 rounds what it should and nothing else, TF32's flags are put back, refusals."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.engines._precision import products
from fastsaddle.sim.gradient_engine import GradientEngine

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def network(kind: str) -> nn.Module:
    if kind == "chain":
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.Softplus(), nn.Linear(9, 4))
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(80, 4))


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        *(("chain", name) for name in ("batched", "vmap", "loop")),
        *(("cnn", name) for name in ("vmap", "unfold", "loop", "threads")),
    ],
)
def test_bfloat16_rounds_products(kind: str, engine: str, seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(network(kind), 3, init="independent", seed=seed)
    inputs, targets = torch.randn(3, 8, 1, 6, 6), torch.randint(0, 4, (3, 8))
    start, dtypes = stack.x.clone(), set()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> Any:
        dtypes.add(outputs.dtype)
        return F.cross_entropy(outputs, targets)

    errors = {}
    GradientEngine(stack, F.cross_entropy, "loop").gradients(inputs, targets)
    exact = stack.g.clone()
    for name, given in (("own", loss), ("cross entropy", F.cross_entropy)):
        engine_ = GradientEngine(stack, given, engine, precision="bfloat16")
        losses = engine_.gradients(inputs, targets)
        assert losses.dtype == stack.g.dtype == torch.float32
        assert engine_.outputs(inputs).dtype == torch.float32
        errors[name] = float((stack.g - exact).norm() / exact.norm())
    assert dtypes == {torch.float32}
    # 8 bits: a rounding is up to 2^-8, a few follow each other; float32 would be below 1e-5
    assert all(1e-4 < error < 0.06 for error in errors.values()), errors
    assert torch.equal(stack.x, start)
    # outside nothing is cast
    assert network(kind)(inputs[0]).dtype == torch.float32


def test_convolutions_are_rounded_under_vmap_too(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.Sequential(nn.Conv2d(1, 5, 6), nn.Flatten()), 3)
    inputs = torch.randn(3, 8, 1, 6, 6)
    for engine in ("vmap", "unfold", "threads"):
        found = GradientEngine(stack, F.cross_entropy, engine, None, "bfloat16").outputs(inputs)
        assert torch.equal(found, found.bfloat16().float()), engine


def test_flags_are_put_back() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for precision, expected in (("tf32", True), ("float32", False), ("bfloat16", False)):
        with pytest.raises(KeyError), products(precision, GPU):
            assert [flag.allow_tf32 for flag in flags] == [expected] * 2
            raise KeyError
        with products(precision, CPU):
            assert [flag.allow_tf32 for flag in flags] == before
        assert [flag.allow_tf32 for flag in flags] == before


def test_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    stack = fs.AgentStack(network("chain"), 3)
    with pytest.raises(ValueError, match="one of float32, tf32, bfloat16, got 'float16'"):
        GradientEngine(stack, F.cross_entropy, precision="float16")
    assert main(["train", "--precision", "tf32", "--device", "cpu"]) == 2
    rule = "precision tf32 is a mode of GPUs' matrix products, the device is cpu: use"
    assert rule in capsys.readouterr().err


def test_a_run_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "60", "--agents", "4", "--alpha", "10", "--eval-every", "60"]
    out = tmp_path / "run"
    assert main(["train", "--precision", "bfloat16", "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert re.search(r'engine "batched" on \d+ CPU threads?, bfloat16, backend', said)
    assert json.loads((out / "config.json").read_text())["precision"] == "bfloat16"
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["consensus_accuracy"] > 0.8
    # a run of a version without the option goes on in float32
    config = json.loads((out / "config.json").read_text())
    del config["precision"]
    (out / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", str(out)]) == 0
