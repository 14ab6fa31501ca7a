"""Runs of a network that counts its calls in a buffer: all engines learn alike, and evaluations do not count."""

import json
from pathlib import Path

import pytest

from fastsaddle.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")
NETS = """
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.last = nn.Linear(64, classes)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        self.n = self.n + 1
        return self.last(x.flatten(1)) * (2 - 1 / self.n)

class InPlace(Counting):
    def forward(self, x):
        self.n += 1
        return self.last(x.flatten(1)) * (2 - 1 / self.n)
"""
OPTIONS = (
    *("--agents", "8", "--batch-size", "8", "--steps", "8", "--eval-every", "3"),
    *("--device", "cpu"),
)


@pytest.mark.parametrize("algorithm", ["qgm", "qsaddle"])
def test_engines_and_forms_learn_alike(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    found = []
    for net in ("Counting", "InPlace"):
        for engine in ("vmap", "loop"):
            words = ["--algorithm", algorithm, "--model", f"nets.py:{net}", "--engine", engine]
            assert main(["train", *OPTIONS, *words, "--out", f"{net}-{engine}"]) == 0
            rows = (tmp_path / f"{net}-{engine}" / "metrics.jsonl").read_text().splitlines()
            row = json.loads(rows[-1])
            keys = ("train_loss", "loss", "mean_accuracy", "consensus_distance")
            found.append([row[key] for key in keys])
    for row in found:
        assert row == pytest.approx(found[0], rel=1e-3, abs=1e-5)
