"""The README's code runs as printed, and names the commands that users and CI type."""

import re
from pathlib import Path

import torch
from torch import nn

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


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
    for block in BLOCKS:
        exec(block, names)  # the README is ours
    assert len(BLOCKS) == 2
    assert float(names["loss"].detach()) != before
    after = nn.functional.cross_entropy(model(inputs[0]), targets[0])
    assert float(after.detach()) < before
    assert isinstance(names["averaged"], nn.Sequential)


def test_commands_are_literal() -> None:
    for command in (
        "pip install '.[sim]' && fastsaddle train",
        "pip install -e '.[sim,test]' && pytest",
        "pytest benchmarks/ --benchmark-only",
        "bash benchmarks/on_gpu.sh DIR",
    ):
        assert command in README
