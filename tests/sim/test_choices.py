"""What options name: built-in pieces by their file, the user's own by import path."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastsaddle.cli import main
from fastsaddle.sim import choices, methods
from fastsaddle.sim.run import messages

SIM = Path(choices.__file__).parent
OWN = '''
    import numpy as np
    import torch
    from fastsaddle import QGM
    from fastsaddle.sim.data.dataset import Dataset

    class Net(torch.nn.Sequential):
        def __init__(self, shape, classes, width: int = 5):
            layers = torch.nn.Linear(shape[0], width), torch.nn.Tanh(), torch.nn.Linear(width, classes)
            super().__init__(*layers)

    def points(device):
        draw = torch.Generator().manual_seed(8)
        x, y = torch.randn(300, 4, generator=draw), torch.arange(300) % 3
        x[:, :3] += 2 * torch.nn.functional.one_hot(y, 3)
        return Dataset("points", ("a", "b", "c"), x, y, x.clone(), y.clone())

    def rows(labels, agents):
        return np.array_split(np.arange(len(labels)), agents)

    class Halved(QGM):
        """Quasi-global momentum at half the learning rate."""
        def __init__(self, params, lr, topology, share: float = 0.5):
            super().__init__(params, lr * share, topology=topology)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    return tmp_path


@pytest.mark.parametrize("folder", ["datasets", "partitions", "feature_skews", "networks"])
def test_the_folder_is_the_list(folder: str) -> None:
    files = {p.stem for p in (SIM / choices.PLACES[folder].replace(".", "/")).glob("[!_]*.py")}
    assert {name.replace("-", "_") for name in choices.names(folder)} == files and files
    for name in choices.names(folder):
        assert choices.find(name, folder).function.__name__ == name.replace("-", "_")


def test_help_names_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help-all"]) == 0
    said = capsys.readouterr().out
    folders = ("datasets", "partitions", "feature_skews", "networks")
    names = (*methods.names(), *messages.names())
    for name in (*names, *(n for folder in folders for n in choices.names(folder))):
        assert name in said, name


def test_one_file_of_the_user(own: Path) -> None:
    options = (
        *("--algorithm", "own.py:Halved:0.25", "--dataset", "own.py:points"),
        *("--model", "own.py:Net:7", "--partition", "own.py:rows"),
        *("--agents", "3", "--batch-size", "8", "--steps", "40", "--checkpoint-every", "20"),
    )
    assert main(["train", *options, "--out", "run"]) == 0
    expected = (own / "run" / "checkpoint-40.safetensors").read_bytes()
    (own / "run" / "checkpoint-40.safetensors").unlink()
    # from elsewhere: config.json has the whole path
    command = [sys.executable, "-m", "fastsaddle", "train", "--resume", str(own / "run")]
    subprocess.run(command, cwd=SIM.parents[1], check=True, capture_output=True)
    assert (own / "run" / "checkpoint-40.safetensors").read_bytes() == expected
    row = (own / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert '"lr": 0.025,' in row


def test_arguments_after_the_colon(own: Path) -> None:
    found = choices.find("own.py:Net:9", "networks")(shape=(4,), classes=3, vocabulary=None)
    assert found[0].out_features == 9
    named = choices.find("own.py:Net:width=11", "networks")(shape=(4,), classes=3)
    assert named[0].out_features == 11
    text = choices.absolute("own.py:Net:9")
    assert text == f"{own / 'own.py'}:Net:9" and choices.absolute("mlp:9") == "mlp:9"
    assert choices.find(text, "networks").arguments == ("9",)
    assert choices.find("torch.nn:Identity", "networks").function.__name__ == "Identity"


def test_what_is_no_choice(own: Path) -> None:
    for text, rule in (
        ("own.py:Nett", "has no callable 'Nett'; it has"),
        ("torch.nn:Nett", "has no callable 'Nett'"),
        ("mlq", "^model must be one of cnn5, "),
    ):
        with pytest.raises(ValueError, match=rule):
            choices.find(text, "networks")
    with pytest.raises(ValueError, match=r"must be a subclass of fs\.rules\.Rule or fs\.Optimizer"):
        methods.find("own.py:Net")
    with pytest.raises(ValueError, match=r"own.py:rows needs a value for labels.*offered by name"):
        choices.find("own.py:rows", "networks")(shape=(4,), classes=3)
    (own / "broken.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        choices.find("broken.py:Net", "networks")
