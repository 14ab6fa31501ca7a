"""`fastsaddle info --model`: rows as the table of docs/methods.md has them, bytes as they are allocated."""

import re
from pathlib import Path

import pytest

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import methods
from fastsaddle.sim.commands.memory import MemoryQuestion, config_of
from fastsaddle.sim.run import initial_models
from fastsaddle.sim.run.memory_needed import kept_rows, resident_bytes, size

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
# | `NAME` | made of | rows kept beside x and g |
TABLE = dict(
    re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|", PAGE.split("## Gradients")[0], re.MULTILINE)
)
METHODS = [name for name in fs.__all__ if name.lower() in methods.names()]


def question(**options: object) -> MemoryQuestion:
    return MemoryQuestion("mlp", **{"sample": "1x8x8", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("topology", "degree"), [("ring", 2), ("torus:3x4", 4)])
def test_rows_are_those_of_the_page(name: str, topology: str, degree: int) -> None:
    if name == "RelaySGD":
        topology, degree = {2: ("chain", 2), 4: ("star", 11)}[degree]
    if not methods.takes(name.lower(), "topology"):
        topology = "ring"
    told = TABLE[name].strip()
    words = re.fullmatch(r"(degree \+ )?(\d*)(, and one row for all)?", told)
    assert words, told
    expected = (degree if words[1] else 0) + int(words[2] or 0) + (1 / 12 if words[3] else 0)
    found = kept_rows(config_of(question(algorithm=name.lower(), agents=12, topology=topology)))
    assert found - 2 == pytest.approx(expected)


def test_compressors_and_looksam_keep_more() -> None:
    plain = kept_rows(config_of(question(algorithm="qsaddle")))
    assert kept_rows(config_of(question(algorithm="qsaddle", compressor="sign"))) == plain + 1
    assert kept_rows(config_of(question(algorithm="qsaddle", sam="looksam:5"))) == plain + 1


@pytest.mark.parametrize("algorithm", ["qsaddle", "ngm"])
def test_bytes_are_those_allocated(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--model",
        "lenet5",
        "--sample",
        "1x28x28",
        "--algorithm",
        algorithm,
        "--agents",
        "5",
    ]
    assert main(["info", *options]) == 0
    told = capsys.readouterr().out
    stack = fs.AgentStack(initial_models.build("lenet5", (1, 28, 28), 10, seed=0), 5)
    optimizer = methods.build(algorithm, list(stack.parameters()), topology="ring")
    assert f"5 agents: {size(resident_bytes(optimizer))}, without activations" in told
    assert "61,706 parameters" in told


def test_samples_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", "mlp", "--sample", "wide"]) == 2
    assert "--sample must be sizes such as 3x32x32, got 'wide'" in capsys.readouterr().err
    assert [size(n) for n in (999, 2.5e6, 17.88e9)] == ["1.00 kB", "2.50 MB", "17.88 GB"]
