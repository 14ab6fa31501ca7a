"""What is said while it takes long, and at once after Ctrl-C; help without ragged lines."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fastsaddle.cli import main
from fastsaddle.sim.commands.memory import MemoryQuestion
from fastsaddle.sim.comparison import progress as comparing
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report import page
from fastsaddle.sim.run import progress as running
from fastsaddle.sim.run.interrupts import Interrupts
from fastsaddle.sim.run.progress import Progress

SLOW = """
import time
import torch

class Net(torch.nn.Linear):
    def __init__(self, shape, classes):
        super().__init__(64, classes)

    def forward(self, x):
        if not self.training:
            print("evaluating", flush=True)
            time.sleep(0.5)
        return super().forward(x.flatten(1))
"""


def test_ctrl_c_is_answered_while_an_evaluation_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    options = ["--model", "slow.py:Net", "--agents", "3", "--steps", "5", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastsaddle", "train", *options, "--engine", "loop"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    while process.stdout.readline() != "evaluating\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    while "stopping after this evaluation, with a checkpoint" not in process.stdout.readline():
        assert process.poll() is None
    # the evaluation has sixteen such calls
    assert time.monotonic() - begin < 4
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "stopped at step 0" in out


def test_what_is_waited_for_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    loss: Any = None
    said = []
    for before in ("step", "evaluation", "after"):
        with Interrupts() as interrupts:
            interrupts.show_step(1, loss, 0.1)
            if before != "step":
                interrupts.begin_evaluation(1)
            if before == "after":
                interrupts.show_evaluation({})
            signal.raise_signal(signal.SIGINT)
            assert interrupts.received == signal.SIGINT
        said.append(capfd.readouterr().out.strip())
    step, evaluation = (
        f"stopping after this {w}, with a checkpoint" for w in ("step", "evaluation")
    )
    assert said == [step, evaluation, step]


def test_long_steps_say_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(running.time, "perf_counter", lambda: now[0])
    loss: Any = SimpleNamespace(item=lambda: 1.25)
    with Progress(Console(file=io.StringIO()), 1000, 0) as progress:
        for step in range(1, 101):
            now[0] += 2.0
            progress.show_step(step, loss, now[0])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0] == "step   15/1000  train loss 1.250  0.5 steps/s"


def test_the_speed_is_that_of_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What evaluations took stands beside it, with a word where it is most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "slow.py").write_text(SLOW.replace("0.5", "0.1"))
    options = ["--model", "slow.py:Net", "--agents", "2", "--steps", "30", "--eval-every", "30"]
    assert main(["train", *options, "--engine", "loop", "--threads", "1", "--out", "run"]) == 0
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    # before the first step and after the last: two agents and their mean each
    assert row["evaluation_seconds"] >= 6 * 0.1
    assert row["step_seconds"] + row["evaluation_seconds"] <= row["seconds"] + 0.002
    said = capsys.readouterr().out
    assert 'cpu, engine "loop" on 1 CPU thread, float32' in said
    at_first = next(line for line in said.splitlines() if "step  0/30" in line)
    assert at_first.endswith("MB sent")
    speeds = [float(found) for found in re.findall(r"([\d.e+]+) steps/s", said)]
    assert speeds[-1] == pytest.approx(30 / row["step_seconds"], rel=1e-3)
    assert "(less with a larger --eval-every)" in said


def test_a_comparison_says_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell(TrainConfig(seed=seed, steps=100)) for seed in range(4)]
    paths = {cell.name: tmp_path / cell.name for cell in cells}
    now, step = [0.0], [0]
    monkeypatch.setattr(comparing.time, "monotonic", lambda: now[0])
    shares = ("consensus_accuracy", "mean_accuracy", "worst_accuracy")
    row = dict.fromkeys(("loss", "consensus_distance", "seconds", *shares), 0.5) | {"bytes_sent": 1}
    for path in paths.values():
        path.mkdir()
        (path / "config.json").write_text('{"steps": 100}')
    progress = comparing.ComparisonProgress(Console(file=io.StringIO()), "runs", cells, paths)
    with progress:
        for _ in range(200):
            now[0] += 0.5
            step[0] = int(now[0] / 2)
            for path in paths.values():
                (path / "metrics.jsonl").write_text(json.dumps({"step": step[0], **row}) + "\n")
            progress.update()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "15% of the steps of 4 runs, 0 done, after 30 s, about 3 min left",
        "30% of the steps of 4 runs, 0 done, after 60 s, about 2 min left",
        "45% of the steps of 4 runs, 0 done, after 90 s, about 110 s left",
    ]


def test_a_report_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", "--agents", "3", "--steps", "4", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["report", str(run), "--samples", "40", "--points", "3"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{run / 'report.html'}\n"
    first, second = said.err.splitlines()
    assert first == "1 run read, drawing curves, splits and graphs"
    assert second.startswith("loss surface 1 of 1, ") and "3x3 points, 40 samples each" in second
    # in a program of one's own it is silent
    page.write([run], tmp_path / "page.html", surface=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples=20", "--points=5", "--data-dir=x"])
def test_options_of_a_surface_that_is_left_out(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path), "--no-surface", option]) == 2
    name = option.partition("=")[0]
    assert f"{name} is for the loss surface, which --no-surface" in capsys.readouterr().err


@pytest.mark.parametrize("options", [TrainConfig, MemoryQuestion])
def test_lines_of_help_are_the_terminals_own(options: type[Any]) -> None:
    """Each text is one paragraph, which the help wraps: breaks of the source would make its lines ragged."""
    for field in fields(options):
        text = field.metadata["help"]
        assert text.endswith(".") and "\n" not in text and "  " not in text, field.name
