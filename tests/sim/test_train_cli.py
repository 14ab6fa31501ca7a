"""The main job from the outside: what it writes, how it stops, that it goes on bit for bit."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastsaddle import cli
from fastsaddle.cli import main

ROOT = Path(__file__).parents[2]
SMALL = ("--agents", "4", "--batch-size", "8", "--eval-every", "30", "--checkpoint-every", "20")
# long enough to be met in the middle, also by a process that has to wait for its turn
LONG = (
    *("--steps", "350", "--batch-size", "64", "--threads", "1"),
    *("--eval-every", "30", "--checkpoint-every", "17"),
)
FIELDS = [
    *("step", "loss", "consensus_accuracy", "mean_accuracy", "worst_accuracy"),
    *("consensus_distance", "train_loss", "lr", "bytes_sent"),
    *("update_norm", "error_norm", "compression_error"),
    *("gradient_evaluations", "step_seconds", "evaluation_seconds", "seconds"),
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Any:
    # started processes and this one then compute the same, also on a busy machine
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fastsaddle", "train", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def wait_for(path: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {pattern} in {path}"
        time.sleep(0.01)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


Outcome = tuple[list[dict[str, Any]], dict[str, bytes]]


def outcome(run: Path) -> Outcome:
    """All that equal runs must share: the metrics without time, and the checkpoints' bytes."""
    metrics = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(run)]
    return metrics, {p.name: p.read_bytes() for p in run.glob("checkpoint-*")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run = tmp_path_factory.mktemp("uninterrupted")
    assert main(["train", *LONG, "--out", str(run)]) == 0
    return outcome(run)


def test_writes_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--steps", "50", "--out", str(run)]) == 0
    names = sorted(path.name for path in run.iterdir())
    checkpoints = ["checkpoint-40.safetensors", "checkpoint-50.safetensors"]
    assert names == [
        ".lock",
        *(*checkpoints, "classes.png", "config.json", "curves.png", "metrics.jsonl"),
        "partition.json",
    ]
    partition = json.loads((run / "partition.json").read_text())
    assert partition["classes"] == list("0123456789")
    assert sum(map(sum, partition["counts"])) == 1433
    assert all((run / name).read_bytes()[:4] == b"\x89PNG" for name in names if "png" in name)
    found = rows(run)
    assert [list(row) for row in found] == [FIELDS] * 3
    assert [row["step"] for row in found] == [0, 30, 50]
    assert found[0]["bytes_sent"] == 0 < found[1]["bytes_sent"] < found[2]["bytes_sent"]
    assert found[0]["seconds"] <= found[1]["seconds"] <= found[2]["seconds"]
    for row in found:
        assert 0 <= row["worst_accuracy"] <= row["mean_accuracy"] <= 1
    config = json.loads((run / "config.json").read_text())
    assert config["device"] in ("cpu", "cuda") and config["engine"] in ("vmap", "loop", "batched")
    assert config["threads"] == 1 and config["steps"] == 50 and config["lr"] > 0
    assert {"torch", "fastsaddle"} <= config["versions"].keys()
    assert set(config["backend"].values()) <= {"reference", "native", "triton"}
    assert not {"out", "resume", "minutes"} & config.keys()
    said = capsys.readouterr().out
    assert all(str(run / name) in said for name in names if name != ".lock")
    for before, row in itertools.pairwise(found):
        assert row["train_loss"] > 0 and row["lr"] == 0.1
        # both of SAM's passes, of 4 agents
        assert row["gradient_evaluations"] == 2 * 4 * row["step"]
        assert row["step_seconds"] - before["step_seconds"] < row["seconds"] - before["seconds"]
    assert found[0]["train_loss"] is None
    assert "consensus accuracy" in said and "MB" in said


def test_equal_options_make_equal_bytes(tmp_path: Path) -> None:
    outcomes = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        run = tmp_path / name
        main(["train", *SMALL, "--steps", "45", "--seed", seed, "--out", str(run)])
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]


@pytest.mark.parametrize("algorithm", ["qsaddle", "qgm", "dsaddle", "dsgdm", "dsgd"])
def test_algorithms_go_on_bit_for_bit(algorithm: str, tmp_path: Path) -> None:
    options = ["--algorithm", algorithm, *SMALL, "--weight-decay", "1e-3", "--steps", "45"]
    options += ["--schedule", "cosine", "--warmup", "0.1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *options, "--out", str(whole)]) == 0
    assert main(["train", *options, "--out", str(cut)]) == 0
    (cut / "checkpoint-45.safetensors").unlink()
    assert main(["train", "--resume", str(cut)]) == 0
    assert outcome(cut) == outcome(whole)


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "cnn5", "--topology", "fully-connected", "--partition", "dirichlet-raw"),
        ("--epochs", "0.1", "--init", "independent", "--augment", "crop-flip"),
        ("--feature-skew", "noise:0.3", "--partition", "classes:5", "--split-seed", "3"),
        ("--model", "cnn5", "--weight-decay", "1e-3", "--evaluate-on", "validation"),
        ("--adaptive", "--rho", "0.5", "--qg-momentum", "0.8", "--consensus-step", "0.5"),
        ("--engine", "loop", "--nesterov", "--alpha", "100"),
        ("--engine", "vmap", "--chunk", "2", "--topology", "star"),
    ],
)
def test_other_options_train(options: tuple[str, ...], tmp_path: Path) -> None:
    run = tmp_path / "run"
    length = () if "--epochs" in options else ("--steps", "4")
    assert main(["train", *SMALL, *options, *length, "--out", str(run)]) == 0
    assert rows(run)[-1]["loss"] < rows(run)[0]["loss"]


@pytest.mark.parametrize("algorithm", ["qgm", "dsaddle"])
def test_algorithms_survive_sigkill(algorithm: str, tmp_path: Path) -> None:
    options = ("--algorithm", algorithm, *LONG, "--schedule", "cosine", "--warmup", "0.1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(*options, "--out", str(killed))
    wait_for(killed, "checkpoint-*.safetensors", process)
    process.kill()
    process.communicate()
    assert not (killed / "checkpoint-350.safetensors").exists()
    assert main(["train", "--resume", str(killed)]) == 0
    assert main(["train", *options, "--out", str(whole)]) == 0
    assert outcome(killed) == outcome(whole)


def stop(process: "subprocess.Popen[str]", run: Path, number: int) -> list[str]:
    """Send a signal; the arguments of the command that is then said to go on."""
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert not errors
    found = re.search(r"stopped at step (\d+); go on with:\nfastsaddle train (.*)\n", said)
    assert found, said
    assert (run / f"checkpoint-{found[1]}.safetensors").exists()
    return shlex.split(found[2])


def test_interrupted_while_packages_are_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "fastsaddle: error: interrupted\n"


def test_killed_and_told_to_stop_at_any_moment(tmp_path: Path, uninterrupted: Outcome) -> None:
    """One run is killed before it has a checkpoint; signals then leave a checkpoint and the way on."""
    run = tmp_path / "with space"
    process = start(*LONG, "--out", str(run))
    wait_for(run, "config.json", process)
    process.kill()
    process.communicate()
    assert not list(run.glob("checkpoint-*"))
    process = start("--resume", str(run))
    wait_for(run, "checkpoint-*.safetensors", process)
    process = start(*stop(process, run, signal.SIGINT))
    assert process.stdout
    assert any("going on at step" in process.stdout.readline() for _ in range(4))
    assert main(["train", *stop(process, run, signal.SIGTERM)]) == 0
    assert outcome(run) == uninterrupted
    seconds = [row["seconds"] for row in rows(run)]
    assert seconds == sorted(seconds)


def test_a_damaged_checkpoint_falls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main(["train", *SMALL, "--steps", "50", "--out", str(run)])
    expected = outcome(run)
    last = run / "checkpoint-50.safetensors"
    last.write_bytes(last.read_bytes()[:-7])
    (run / "curves.png").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert "checkpoint-50.safetensors is not a whole checkpoint" in capsys.readouterr().out
    assert outcome(run) == expected


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    main(["train", *SMALL, "--steps", "20", "--out", str(run)])
    before = {path: path.read_bytes() for path in run.iterdir()}
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert "is finished: all 20 steps are done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_resume_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    main(["train", *SMALL, "--steps", "20", "--out", str(run)])
    capsys.readouterr()
    for other in (["--seed", "0"], ["--nesterov"], ["--lr=0.3"]):
        assert main(["train", "--resume", str(run), *other]) == 2
        assert "--resume takes no other option" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["train", *SMALL, "--steps", "20", "--out", str(run)]) == 2
    assert f"go on with that run: fastsaddle train --resume {run}" in capsys.readouterr().err


def test_runs_get_their_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", *SMALL, "--steps", "1", "--topology", "torus:2x2"]) == 0
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(names) == 2
    assert all(n.startswith("qsaddle-digits-mlp-4-torus-2x2-a0.1-s0-") for n in names)


def test_a_full_disk_is_told_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if "checkpoint-40" in str(target):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert main(["train", *SMALL, "--steps", "50", "--out", str(run)]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and f"fastsaddle train --resume {run}" in said
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0
    main(["train", *SMALL, "--steps", "50", "--out", str(tmp_path / "whole")])
    assert outcome(run) == outcome(tmp_path / "whole")


def test_a_picture_that_cannot_be_drawn_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, seen = tmp_path / "run", []

    def undrawable(path: Path, *rest: object) -> None:
        seen.append(sorted(p.name for p in path.parent.glob("checkpoint-*")))
        raise ValueError("no such\nbackend")

    monkeypatch.setattr("fastsaddle.sim.run.plots.draw_classes", undrawable)
    assert main(["train", *SMALL, "--steps", "90", "--out", str(run)]) == 2
    # once at the first evaluation after a step, once at the end, where it is an error
    assert [names[-1] for names in seen] == [
        "checkpoint-20.safetensors",
        "checkpoint-90.safetensors",
    ]
    said = capsys.readouterr()
    told = "classes.png could not be drawn yet: ValueError: no such backend"
    assert said.out.splitlines().count(told) == 1 and "no such\nbackend" in said.err
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0
    assert {"classes.png", "curves.png"} < {path.name for path in run.iterdir()}


@pytest.mark.parametrize(
    ("dataset", "model"), [("fashion-mnist", "lenet5"), ("cifar10", "mlp"), ("cifar10", "lenet5")]
)
def test_data_from_a_folder(dataset: str, model: str, data_dir: Path, tmp_path: Path) -> None:
    if dataset == "cifar10" and not list(data_dir.rglob("test_batch.bin")):
        pytest.skip("no CIFAR-10 .bin files in --data-dir")
    run = tmp_path / "run"
    options = ["--dataset", dataset, "--data-dir", str(data_dir), "--model", model]
    few = ["--agents", "2", "--steps", "3", "--eval-every", "9", "--checkpoint-every", "2"]
    assert main(["train", *options, *few, "--out", str(run)]) == 0
    expected = outcome(run)
    (run / "checkpoint-3.safetensors").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    assert outcome(run) == expected
    assert [row["step"] for row in rows(run)] == [0, 3]


def test_defaults_reach_their_accuracy(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", "--out", str(run)]) == 0
    assert rows(run)[-1]["consensus_accuracy"] > 0.93
    assert rows(run)[-1]["seconds"] < 90
