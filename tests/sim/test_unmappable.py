"""Networks that torch.vmap cannot map: auto goes on agent by agent and says so, others are refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.gradient_engine import GradientEngine

pytestmark = pytest.mark.usefixtures("one_thread")
NETS = """
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

def spectral(shape, classes):
    norm = parametrizations.spectral_norm
    return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 9)), nn.Tanh(), nn.Linear(9, classes))

def hooked(shape, classes):
    layer = spectral_norm(nn.Linear(64, 9))
    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), nn.Linear(9, classes))

def averages(shape, classes):
    norm = nn.BatchNorm2d(3, momentum=None)
    return nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.Flatten(), nn.Linear(108, classes))

def flat_averages(shape, classes):
    norm = nn.BatchNorm1d(9, momentum=None)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), norm, nn.Linear(9, classes))

class Rows(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.rows, self.last = nn.LSTM(8, 9, batch_first=True), nn.Linear(9, classes)

    def forward(self, x):
        return self.last(self.rows(x[:, 0])[0][:, -1])

class Choosing(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.last = nn.Linear(64, classes)

    def forward(self, x):
        return self.last(x.flatten(1) if x.mean() > -100 else x)
"""
# network -> the layer that is named
LAYERS = {
    "spectral": r"1.parametrizations.weight.0 (_SpectralNorm): Batching rule not implemented",
    "hooked": "1 (Linear): Batching rule not implemented",
    "averages": "1 (BatchNorm2d): vmap: It looks like you're calling .item()",
    "flat_averages": "2 (BatchNorm1d): vmap: It looks like you're calling .item()",
    "Rows": "rows (LSTM): Batching rule not implemented",
    "Choosing": "Choosing: vmap: It looks like you're attempting to use a Tensor",
}
SMALL = ("--agents", "8", "--batch-size", "8", "--steps", "6", "--device", "cpu")


@pytest.mark.parametrize("net", LAYERS)
def test_a_run_with_auto_and_with_vmap(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    options = ["train", *SMALL, "--model", f"nets.py:{net}"]
    # convolutions and recurrent layers are not mapped anyway
    if net in ("averages", "Rows"):
        assert main([*options, "--out", "run"]) == 0
    else:
        with pytest.warns(RuntimeWarning) as said:
            assert main([*options, "--out", "run"]) == 0
        (message,) = [str(w.message) for w in said if w.category is RuntimeWarning]
        assert message.startswith(f"engine vmap cannot map {LAYERS[net]}") and "\n" not in message
        assert message.endswith("; threads takes its place")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["engine"] == "threads"
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 6
    capsys.readouterr()
    assert main([*options, "--engine", "vmap", "--out", "other"]) == 2
    said_then = capsys.readouterr().err
    assert said_then.startswith(f"fastsaddle: error: engine vmap cannot map {LAYERS[net]}")
    assert said_then.count("\n") == 1 and not (tmp_path / "other").exists()


def spectral_stack() -> fs.AgentStack:
    return fs.AgentStack(nn.Sequential(spectral_norm(nn.Linear(4, 3)), nn.LayerNorm(3)), 8)


def test_first_inputs_decide_where_none_are_given(seed: int) -> None:
    torch.manual_seed(seed)
    inputs, labels = torch.randn(8, 5, 4), torch.randint(0, 3, (8, 5))
    stack = spectral_stack()
    engine = GradientEngine(stack, F.cross_entropy)
    assert engine.engine == "vmap" and not engine.one_by_one
    drawn = torch.get_rng_state()
    with pytest.warns(RuntimeWarning, match="threads takes its place") as said:
        losses = [engine.gradients(inputs, labels) for _ in range(3)]
        engine.outputs(inputs)
        stack.eval()
        engine.gradients(inputs, labels)
    assert len(said) == 1 and engine.engine == "threads" and engine.one_by_one
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(one.shape == (8,) for one in losses)
    for name in ("vmap", "unfold"):
        asked = GradientEngine(spectral_stack(), F.cross_entropy, name)
        with pytest.raises(ValueError, match=rf"^engine {name} cannot map 0.param.*SpectralNorm"):
            asked.gradients(inputs, labels)
        with pytest.raises(ValueError, match=rf"^engine {name} cannot map 0.param.*SpectralNorm"):
            GradientEngine(spectral_stack(), F.cross_entropy, name, inputs=inputs)


def test_a_trial_changes_nothing(seed: int) -> None:
    """The bits of a run do not depend on whether its engine was tried with inputs before."""
    found = []
    net = nn.Sequential(
        nn.ReLU(inplace=True), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
    )
    torch.manual_seed(seed)
    inputs, labels = torch.randn(8, 5, 4), torch.randint(0, 3, (8, 5))
    for known in (None, inputs):
        stack = fs.AgentStack(net, 8)
        torch.manual_seed(seed)
        engine = GradientEngine(stack, F.cross_entropy, "vmap", inputs=known)
        losses = engine.gradients(inputs.clone(), labels)
        found.append((losses, stack.g, *stack.buffers.values(), torch.get_rng_state()))
    assert all(map(torch.equal, *found))


def test_a_network_that_fails_anyway_fails_as_it_does() -> None:
    class Fails(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            raise KeyError("of the network")

    with pytest.raises(KeyError, match="of the network"):
        GradientEngine(fs.AgentStack(Fails(4, 3), 8), F.cross_entropy).gradients(
            torch.randn(8, 5, 4), torch.zeros(8, 5, dtype=torch.int64)
        )


def test_chains_name_the_layer_that_is_none() -> None:
    rule = (
        r"^engine batched cannot run: a chain must be a Sequential of Linear.* got 1 \(LayerNorm\)$"
    )
    with pytest.raises(ValueError, match=rule):
        GradientEngine(
            fs.AgentStack(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), 2), F.mse_loss, "batched"
        )
