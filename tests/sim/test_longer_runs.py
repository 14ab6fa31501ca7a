"""A run made longer by --resume DIR --steps N: its bits, what is said of schedules, what is recorded and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fastsaddle.cli import main
from fastsaddle.sim.run import schedule

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = (
    *("--agents", "4", "--batch-size", "8", "--eval-every", "10", "--checkpoint-every", "10"),
    *("--model", "mlp:5"),
)


def train(out: Path, *options: str) -> None:
    assert main(["train", *SMALL, *options, "--out", str(out)]) == 0


def rows(run: Path) -> list[dict[str, Any]]:
    """Without what depends on time."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in found]


@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "qsaddle", "--compressor", "stochastic-quantizer:4"],
        ["--algorithm", "local-sgd"],
        ["--algorithm", "d2", "--consensus-step", "0.5", "--augment", "flip"],
    ],
)
def test_it_has_the_bits_of_a_run_of_that_length(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    train(short, *options, "--steps", "20")
    train(long, *options, "--steps", "40")
    capsys.readouterr()
    assert main(["train", "--resume", str(short), "--steps", "40"]) == 0
    said = capsys.readouterr().out
    assert "40 steps in all, it was to be 20; config.json records both" in said
    assert "the learning rate is constant" in said
    assert rows(short) == rows(long)
    for step in (30, 40):
        found, expected = (load_file(d / f"checkpoint-{step}.safetensors") for d in (short, long))
        assert found.keys() == expected.keys()
        assert all(found[n].equal(expected[n]) for n in found)
    recorded = json.loads((short / "config.json").read_text())
    assert recorded["steps"] == 40
    assert recorded["extended"] == [{"at_step": 20, "steps": 20, "epochs": None}]
    assert main(["train", "--resume", str(short)]) == 0
    assert "is finished: all 40 steps are done" in capsys.readouterr().out


def test_an_unfinished_run_and_epochs(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    train(run, "--epochs", "1")
    steps = json.loads((run / "config.json").read_text())["steps"]
    assert main(["train", "--resume", str(run), "--minutes", "1e-9", "--epochs", "2"]) == 75
    assert json.loads((run / "config.json").read_text())["steps"] == 2 * steps
    # what it was made goes on by itself
    assert main(["train", "--resume", str(run)]) == 0
    train(other, "--epochs", "2")
    assert rows(run)[-1] == rows(other)[-1] and rows(run)[-1]["step"] == 2 * steps


def test_schedules_follow_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train(run, "--steps", "20", "--schedule", "step", "--warmup", "0.2", "--lr", "0.1")
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--steps", "60"]) == 0
    said = capsys.readouterr().out
    assert "the rate decays at steps 30 and 45 of 60, it was to at 10 and 15" in said
    assert "the warm-up takes 12 steps, it was to take 4" in said
    assert "the next step's rate is 0.1, by the schedule of before 0.001" in said
    rates = {row["step"]: row["lr"] for row in rows(run)}
    assert rates[20] == pytest.approx(0.001) and rates[30] == pytest.approx(0.01)
    assert rates[50] == pytest.approx(0.001)


def test_what_moves_is_said() -> None:
    of = {n: schedule.parse("cosine", n) for n in (100, 200)}
    assert schedule.moved(of[100], of[200], 100, 0.4) == [
        "the rate falls to 0 at step 200, it was to at 100",
        "the next step's rate is 0.2, by the schedule of before 9.87e-05",
    ]
    assert schedule.moved(*(schedule.parse("constant", n) for n in (9, 20)), 9, 0.4) == []


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("--steps 19", "--steps 19 is fewer than the 20 that"),
        ("--steps 0", "--steps must be >= 1, got 0"),
        ("--steps 40 --epochs 3", "--steps and --epochs exclude each other"),
        ("--steps 40 --lr 0.2", "--resume takes no other option but --steps or --epochs"),
        ("--steps 40 --steps 50", "--steps is given twice"),
    ],
)
def test_what_cannot_be_changes_nothing(
    options: str, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(run, "--steps", "20")
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    capsys.readouterr()
    assert main(["train", "--resume", str(run), *options.split()]) == 2
    said = capsys.readouterr().err
    assert rule in said and said.count("\n") == 1
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_a_run_of_a_comparison_keeps_its_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both"
    options = ["--algorithm", "qgm", "--seed", "0", "--agents", "4", "--steps", "4"]
    assert main(["compare", *options, "--batch-size", "4", "--out", str(out)]) == 0
    (cell,) = (out / "cells").iterdir()
    assert main(["train", "--resume", str(cell), "--steps", "9"]) == 2
    assert "is one of a comparison's runs, which have equal steps" in capsys.readouterr().err
    assert json.loads((cell / "config.json").read_text())["steps"] == 4
