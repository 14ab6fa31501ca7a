"""What people read of own choices, in tables, pictures and on the page."""

import json
from pathlib import Path

import pytest

from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.labels import Labels, label
from fastsaddle.sim.run.paths import without_folders

NET = """
import torch

class Net(torch.nn.Sequential):
    def __init__(self, shape, classes, width: int = 5):
        layers = torch.nn.Linear(shape[-1] * shape[-2], width), torch.nn.Tanh(), torch.nn.Linear(width, classes)
        super().__init__(torch.nn.Flatten(), *layers)

class Named(Net):
    label = "wide [net]"

class Odd(Net):
    label = 3
"""
METHOD = """
from fastsaddle import QGM

class Half(QGM):
    def __init__(self, params, lr, topology, share: float = 0.5):
        super().__init__(params, lr * share, topology=topology)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py", "x/net.py", "y/net.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(NET)
    (tmp_path / "method.py").write_text(METHOD)
    return tmp_path


def shown(*models: str) -> list[str]:
    labels = Labels(TrainConfig(model=model) for model in models)
    return [labels.of("model", model) for model in models]


def test_a_label_is_given_or_the_name(here: Path) -> None:
    assert shown("mlp:32", "a.py:Net") == ["mlp:32", "Net"]
    assert shown("a.py:Net:9", "a.py:Net:8:0.1") == ["Net:9", "Net:8:0.1"]
    assert shown("a.py:Named", "a.py:Named:9", "a.py:Odd") == ["wide [net]", "wide [net]:9", "Odd"]
    assert shown("torch.nn:Linear") == ["Linear"]


def test_equal_labels_are_told_apart(here: Path) -> None:
    assert shown("a.py:Net", "b.py:Net", "b.py:Net:3") == ["Net (a.py)", "Net (b.py)", "Net:3"]
    assert shown("x/net.py:Net", "y/net.py:Net") == ["Net (x/net.py)", "Net (y/net.py)"]
    assert shown("x/net.py:Net", str(here / "x/net.py:Net"), "./x/net.py:Net") == ["Net"] * 3
    assert shown("torch.nn:Linear", "torch.nn.modules:Linear") == [
        "Linear (torch.nn)",
        "Linear (torch.nn.modules)",
    ]
    (here / "mlp.py").write_text(NET.replace("class Net", "class mlp").replace("(Net)", "(mlp)"))
    assert shown("mlp", "mlp.py:mlp") == ["mlp", "mlp (mlp.py)"]
    labels = Labels(TrainConfig(topology=t) for t in ("x/edges.txt", "y/edges.txt", "ring"))
    assert labels.of("topology", "y/edges.txt") == "edges.txt (y/edges.txt)"


def test_code_that_is_gone_has_its_name(here: Path) -> None:
    (here / "broken.py").write_text("raise RuntimeError")
    for text in ("gone.py:Net:3", "broken.py:Net:3", "gone.module:Net:3"):
        assert label(text) == "Net:3"
    labels = Labels([])
    assert labels.of("model", str(here / "a.py:Net")) == "Net"
    assert labels.of("lr", 0.1) == 0.1 and labels.of("feature_skew", None) is None


def test_a_comparison_and_its_page_show_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (f"{here}/a.py:Net", "b.py:Net:5", f"{here}/b.py:Net", "a.py:Named")
    algorithms = ("qgm", f"{here}/method.py:Half:0.25")
    (here / "grid.toml").write_text("[tune]\nlr = [0.1, 0.2]\n")
    options = ("--algorithm", *algorithms, "--model", *own, "--agents", "3", "--steps", "2")
    assert main(["compare", "grid.toml", *options, "--seed", "0", "--out", "c", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    labels = ("Net (a.py)", "Net (b.py)", "Net:5", "wide [net]", "Half:0.25")
    for text in labels:
        assert text in said
    assert "chosen for algorithm Half:0.25, model Net (a.py): lr" in said
    table = (here / "c" / "table.md").read_text()
    assert all(text in table for text in labels)
    for text in (said, table, *((here / "c" / n).read_text() for n in ("table.csv", "table.tex"))):
        assert str(here) not in text
    stored = json.loads((here / "c" / "compare.json").read_text())
    assert {c["options"]["model"] for c in stored["cells"]} >= {f"{here}/b.py:Net:5"}
    assert {c["when"]["model"] for c in stored["chosen"]} >= {f"{here}/b.py:Net:5"}
    page = here / "page.html"
    assert main(["report", str(here / "c"), "--out", str(page), "--points", "3"]) == 0
    text = page.read_text()
    assert str(here) not in text and all(name in text for name in labels)
    assert "model Net (a.py): lr" in text
    # no data, no checkpoint: the reasons name no folder either
    for path in (here / "c").rglob("*.safetensors"):
        path.write_bytes(b"half")
    for path in (here / "c").rglob("surface-*.npz"):
        path.unlink()
    assert main(["report", str(here / "c"), "--out", str(page), "--points", "3"]) == 0
    text = page.read_text()
    assert "is not a whole checkpoint" in text and str(here) not in text


def test_the_name_of_a_run_has_no_folder(here: Path) -> None:
    options = ("--model", f"{here}/a.py:Named:7", "--agents", "3", "--steps", "2")
    assert main(["train", *options, "--algorithm", f"{here}/method.py:Half"]) == 0
    (run,) = (here / "runs").iterdir()
    assert run.name.startswith("Half-digits-wide-net-3-ring-")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/x/a.npz is damaged", "a.npz is damaged"),
        ("no file: '/home/my name/run/a.npz'", "no file: 'a.npz'"),
        ("/home/me/a.txt, line 3: a/b is 1/2", "a.txt, line 3: a/b is 1/2"),
        ("see https://host/page/one", "see https://host/page/one"),
    ],
)
def test_messages_without_folders(text: str, left: str) -> None:
    assert without_folders(text) == left
