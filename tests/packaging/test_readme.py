"""The README's code runs as printed, and names the commands that users and CI type."""

import re
from pathlib import Path

import pytest
import torch
import tyro
from torch import nn

from fastsaddle.cli import main
from fastsaddle.sim.comparison.grid_source import build
from fastsaddle.sim.config import TrainConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_own_network_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in BLOCKS if block.startswith("# my_net.py")]
    (command,) = re.findall(r"fastsaddle (train .*)", block)
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(block)
    assert main([*command.split(), "--agents", "3", "--steps", "4", "--out", "run"]) == 0


def test_comparisons_and_trainings_are_real() -> None:
    """Every command line of the README is one that the package reads."""
    lines = re.findall(r"^    fastsaddle (compare|train) (.*)$", README, flags=re.MULTILINE)
    assert len(lines) >= 6
    for command, text in lines:
        words = [word for word in text.split() if word not in ("--sharpness", "--help")]
        if command == "train" and "--resume" not in words:
            tyro.cli(TrainConfig, args=words).check()
        elif command == "compare":
            file = [word for word in words[:1] if not word.startswith("--")]
            build(ROOT / file[0] if file else None, words[len(file) :])


def test_examples_run_and_learn() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, targets = torch.randn(16, 10, 6), torch.randint(0, 3, (16, 10))
    names = {
        "torch": torch,
        "model": model,
        "loss_function": nn.functional.cross_entropy,
        "loader": [(inputs[0], targets[0])] * 30,
        "batches": [(inputs, targets)] * 3,
    }
    before = float(nn.functional.cross_entropy(model(inputs[0]), targets[0]).detach())
    for block in (block for block in BLOCKS if not block.startswith("# my_net.py")):
        exec(block, names)  # the README is ours
    assert float(names["loss"].detach()) != before
    after = nn.functional.cross_entropy(model(inputs[0]), targets[0])
    assert float(after.detach()) < before
    assert isinstance(names["averaged"], nn.Sequential)
    messages, floats = 2 * 16, sum(p.numel() for p in model.parameters())
    # four tensors: bytes of codes and a scale each
    assert names["optimizer"].bytes_sent == messages * (floats + 4 * 4)


def test_commands_are_literal() -> None:
    for command in (
        "pip install '.[sim]' && fastsaddle train",
        "pip install -e '.[sim,test]' && pytest",
        "pytest benchmarks/ --benchmark-only",
        "bash benchmarks/on_gpu.sh DIR",
    ):
        assert command in README
