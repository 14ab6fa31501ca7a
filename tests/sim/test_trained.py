"""The models of a run come back from its checkpoint, however its parameter groups lay rows out."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.data.datasets.digits import digits
from fastsaddle.sim.report import surfaces
from fastsaddle.sim.report.runs import read

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, classes))
"""


def accuracy(model: nn.Module) -> float:
    data = digits()
    with torch.no_grad():
        return (model(data.test[:]).argmax(1) == data.test_labels).double().mean().item()


@pytest.mark.parametrize("method", ["qsaddle", "easgd"])
def test_normalization_layers_without_weight_decay(
    method: str, tmp_path: Path, one_thread: None
) -> None:
    """They are a group of their own, so their columns stand behind the others'."""
    (tmp_path / "net.py").write_text(NET)
    run = fs.sim.train(
        algorithm=method,
        model=f"{tmp_path}/net.py:Net",
        weight_decay=1e-4,
        agents=4,
        steps=40,
        eval_every=40,
        out=tmp_path / "run",
        quiet=True,
    )
    told = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    model = run.model()
    assert accuracy(model) == told["consensus_accuracy"]
    assert min(accuracy(run.model(agent)) for agent in range(4)) == told["worst_accuracy"]
    data = digits()
    middle = surfaces.surface(read(run.directory), len(data.train_labels), 3, None).loss[1, 1]
    loss = F.cross_entropy(model(data.train[:]), data.train_labels)
    assert middle == pytest.approx(loss.item(), rel=1e-5)
