"""`fastsaddle compare` from the outside: its table and picture, that it goes on, that nothing is done twice."""

import csv
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastsaddle.cli import main

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--agents", "4", "--batch-size", "8", "--steps", "60", "--eval-every", "20"),
    *("--threads", "1"),
)
# a process that begins costs more than the runs of a test
ONE, TWO = (*SMALL, "--jobs", "1"), (*SMALL, "--jobs", "2")

LONG = (
    *("--algorithm", "qgm", "--seed", "0", "1", "2", "--agents", "4", "--batch-size", "32"),
    *("--steps", "500", "--checkpoint-every", "10", "--jobs", "1", "--threads", "1"),
)


def run_of(out: Path, **options: Any) -> Path:
    """The directory of the run with these options."""
    cells = json.loads((out / "compare.json").read_text())["cells"]
    found = [c for c in cells if all(c["options"][n] == v for n, v in options.items())]
    assert len(found) == 1, found
    return out / found[0]["directory"]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open() as stream:
        return list(csv.DictReader(stream))


def contents(out: Path) -> dict[Path, bytes]:
    """Checkpoints by path: equal for equal runs, and new when a run is done again."""
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    options = ("--algorithm", "dsgd", "qgm", "qsaddle", "--seed", "0", "1")
    assert main(["compare", *options, *TWO, "--out", str(out)]) == 0
    return out


def test_the_table_is_what_the_runs_say(compared: Path) -> None:
    found = table(compared)
    assert [row["algorithm"] for row in found] == ["dsgd", "qgm", "qsaddle"]
    markdown = (compared / "table.md").read_text()
    for row in found:
        runs = [rows(run_of(compared, algorithm=row["algorithm"], seed=s))[-1] for s in (0, 1)]
        accuracies = [run["consensus_accuracy"] for run in runs]
        mean, deviation = statistics.fmean(accuracies), statistics.stdev(accuracies)
        assert float(row["accuracy"]) == pytest.approx(mean)
        assert float(row["accuracy_deviation"]) == pytest.approx(deviation)
        assert float(row["bytes"]) == runs[0]["bytes_sent"] / 4
        assert float(row["gradient_evaluations"]) == 60 * (1 + (row["algorithm"] == "qsaddle"))
        assert float(row["seconds"]) == pytest.approx(statistics.fmean(r["seconds"] for r in runs))
        line = next(line for line in markdown.splitlines() if f"| {row['algorithm']} " in line)
        assert f"{100 * mean:.2f}" in line and f"± {100 * deviation:.2f}" in line
    assert r"\begin{tabular}" in (compared / "table.tex").read_text()
    assert (compared / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_of_a_comparison_is_an_ordinary_run(compared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = ["--algorithm", "qgm", "--seed", "1", *SMALL, "--out", str(run)]
    assert main(["train", *given]) == 0
    expected = run_of(compared, algorithm="qgm", seed=1) / "checkpoint-60.safetensors"
    assert (run / "checkpoint-60.safetensors").read_bytes() == expected.read_bytes()


def test_finished_runs_are_not_done_again(
    compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stamps() -> dict[str, int]:
        return {
            str(p): p.stat().st_mtime_ns for p in (compared / "cells").rglob("*") if p.is_file()
        }

    before = stamps()
    options = ("--algorithm", "dsgd", "qgm", "qsaddle", "--seed", "0", "1", "2")
    assert main(["compare", *options, *ONE, "--out", str(compared)]) == 0
    assert "9 runs, 6 of them done before" in capsys.readouterr().out
    after = stamps()
    assert before.items() <= after.items() and len(after) > len(before)
    assert [row["runs"] for row in table(compared)] == ["3", "3", "3"]


def start(out: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fastsaddle", "compare", *options, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for(out: Path, pattern: str, process: "subprocess.Popen[str]", count: int = 1) -> None:
    deadline = time.monotonic() + 90
    while len(list(out.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern} in {out}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert main(["compare", *LONG, "--out", str(out)]) == 0
    return out


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_goes_on_where_it_was_stopped(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One comparison loses its worker, then is told to stop, then is killed; each command goes on."""
    out = tmp_path / "with space"
    process = start(out, *LONG)
    wait_for(out, "cells/*/checkpoint-*.safetensors", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    # the last one is the worker, the first the tracker of shared resources
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert errors.startswith("fastsaddle: error: a run's process was killed") and "--jobs" in errors

    process = start(out, *LONG)
    wait_for(out, "cells/*/curves.png", process)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGINT and not errors, errors
    found = re.search(r"stopped; the same command goes on:\nfastsaddle (.*)\n", said)
    assert found and shlex.split(found[1]) == ["compare", *LONG, "--out", str(out)]

    process = start(out, *LONG)
    wait_for(out, "cells/*/curves.png", process, 2)
    process.kill()
    # this waits for the workers too, which hold the pipes
    process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL

    capsys.readouterr()
    assert main(["compare", *LONG, "--out", str(out)]) == 0
    assert "3 runs, 2 of them done before" in capsys.readouterr().out
    assert contents(out) == contents(uninterrupted)


def test_a_deadline_leaves_the_rest_for_later(tmp_path: Path) -> None:
    options = ["--algorithm", "qgm", "--seed", "0", *ONE, "--out", str(tmp_path / "out")]
    assert main(["compare", *options, "--minutes", "1e-6"]) == 75
    assert not (tmp_path / "out" / "table.md").exists()
    assert main(["compare", *options]) == 0
    assert main(["compare", *options, "--minutes", "1e-6"]) == 0


def test_runs_that_diverge_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out = tmp_path / "out"
    options = ["--algorithm", "dsgd", "--seed", "0", "1", "--lr", "0.1", "1e30", *ONE]
    assert main(["compare", *options, "--out", str(out)]) == 0
    assert "* lr 1e+30: 2 of 2 runs diverged" in capsys.readouterr().out
    good, bad = table(out)
    assert (good["diverged"], bad["diverged"]) == ("0", "2") and not bad["accuracy"]
    line = next(line for line in (out / "table.md").read_text().splitlines() if "1e+30" in line)
    assert "2, 2 diverged" in line and line.count("diverged") > 2


def test_tuning_runs_on_validation_data_first(tmp_path: Path) -> None:
    out, grid = tmp_path / "out", tmp_path / "grid.toml"
    grid.write_text(
        'algorithm = ["dsgd", "qsaddle"]\nseed = [0, 1]\nagents = 4\nbatch_size = 8\nsteps = 40\n'
        "[tune]\nlr = [0.001, 0.1]\nrho = [0.05, 0.1]\n[tuning]\nseed = 9\nsteps = 30\n"
    )
    few = ("--jobs", "1", "--threads", "1")
    assert main(["compare", str(grid), "--out", str(out), "--sharpness", *few]) == 0
    record = json.loads((out / "compare.json").read_text())
    assert len(record["tuning"]) == 2 + 4 and len(record["cells"]) == 4
    assert all(run["options"]["evaluate_on"] == "validation" for run in record["tuning"])
    best: dict[str, tuple[float, float]] = {}
    for run in record["tuning"]:
        c, accuracy = run["options"], rows(out / run["directory"])[-1]["consensus_accuracy"]
        if accuracy > best.get(c["algorithm"], (0.0, 0.0))[0]:
            best[c["algorithm"]] = (accuracy, c["lr"])
    for run in record["cells"]:
        assert run["options"]["lr"] == best[run["options"]["algorithm"]][1]
        assert run["options"]["evaluate_on"] == "test" and run["options"]["steps"] == 40
        assert json.loads((out / run["directory"] / "sharpness.json").read_text())["samples"] > 0
    assert "chosen for algorithm dsgd: lr 0.1" in (out / "table.md").read_text()
    assert all(float(row["sam_sharpness"]) > 0 for row in table(out))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("--algorithm sgd", "--algorithm must be one of"),
        ("--jobs 0", "--jobs must be > 0, got 0"),
        ("--minutes -1", "--minutes must be > 0, got -1.0"),
        ("absent.toml", "absent.toml"),
        ("--unknown 3", "--unknown is not an option of train that a grid can have"),
        ("--model lenet5 --seed 0 --algorithm qgm", "lenet5 needs images of at least 12x12"),
    ],
)
def test_wrong_comparisons_are_refused(
    options: str,
    rule: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *options.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fastsaddle: error: ") and rule in said
