"""The README names the commands that users and CI type, and its table of methods says what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
import yaml

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import methods
from fastsaddle.sim.comparison.grid_source import build
from fastsaddle.sim.config import TrainConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = (README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
# | `NAME` | what it does | gradients a step | rows sent to each neighbor a step |
ROW = re.compile(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|([^|]*)\|", re.MULTILINE)
TABLE = README.split("## Methods")[1].split("## ")[0]
METHODS = {name: (each.strip(), sent.strip()) for name, each, sent in ROW.findall(TABLE)}


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 180


def test_comparisons_and_trainings_are_real() -> None:
    """Every command line of the pages is one that the package reads."""
    lines = [
        found
        for page in PAGES
        for found in re.findall(r"^    fastsaddle (compare|train) (.*)$", page, flags=re.MULTILINE)
    ]
    assert len(lines) >= 9
    for command, text in lines:
        words = [word for word in text.split() if word not in ("--sharpness", "--help")]
        if command == "train" and "--resume" not in words:
            tyro.cli(TrainConfig, args=words).check()
        elif command == "compare":
            file = [word for word in words[:1] if not word.startswith("--")]
            build(ROOT / file[0] if file else None, words[len(file) :])


def test_all_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    commands = set(re.findall(r"^    fastsaddle (\w+)", README, flags=re.MULTILINE))
    assert commands == {"train", "compare", "report", "export", "plan", "info"}
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in commands)


def test_all_methods_are_in_the_table() -> None:
    public = {name: getattr(fs, name) for name in fs.__all__}
    optimizers = {
        n for n, v in public.items() if isinstance(v, type) and issubclass(v, fs.Optimizer)
    }
    assert set(METHODS) == optimizers - {"Optimizer"} and len(METHODS) == len(methods.names()) == 17


@pytest.mark.parametrize("name", METHODS)
def test_the_table_counts_gradients_and_rows(name: str) -> None:
    """On a tree of 5 agents, of largest degree 2, with models of 7 numbers."""
    gradients, sent = METHODS[name]
    p = torch.nn.Parameter(torch.randn(5, 7))
    is_average = "all-reduce" in sent
    options: dict[str, Any] = {"agents": 5, "period": 1} if is_average else {"topology": "chain"}
    if name == "D2":
        options["topology"] = fs.topology.ring(5)
    optimizer = getattr(fs, name)([p], lr=0.01, **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = {"1": 1, "2": 2, "degree + 1": 3, "2 (degree + 1)": 6}[gradients]
    assert optimizer.evaluations == expected
    messages = 2 * (5 - 1) if is_average else int(sent) * optimizer.topology.messages
    assert optimizer.bytes_sent == 4 * 7 * messages


def test_commands_are_literal() -> None:
    for command in (
        "pip install '.[sim]' && fastsaddle train",
        "pip install -e '.[sim,test]' && pytest",
        "pytest benchmarks/ --benchmark-only",
        "bash benchmarks/on_gpu.sh DIR",
    ):
        assert command in README


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fs.__version__ and citation["license"] == "Apache-2.0"
