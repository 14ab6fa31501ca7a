"""Files of runs that were damaged: refused with the file's name, or made good from what is whole; nothing is lost."""

import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastsaddle.cli import main
from fastsaddle.sim.comparison import grid_source, pool
from fastsaddle.sim.run import checkpoint
from fastsaddle.sim.run.directory_lock import RunInUseError, lock
from fastsaddle.sim.run.run_dir import RunDirectory, check_new, read_rows
from tests.campaigns import files

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = (
    *(
        "--model",
        "mlp:2",
        "--agents",
        "3",
        "--steps",
        "7",
        "--eval-every",
        "2",
        "--batch-size",
        "4",
    ),
    *("--checkpoint-every", "3", "--threads", "1", "--device", "cpu", "--engine", "loop"),
    *("--compressor", "sign", "--consensus-step", "0.2"),
)
# what earlier versions did not write to checkpoints
LATER = ("counter.line_begin", "counter.line_end", "counter.format", "line_sums")
SECONDS = ("step_seconds", "evaluation_seconds", "seconds")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with lines at 0, 2, 4, 6 and 7, and checkpoints at 6 and 7."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *OPTIONS, "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The lines without what depends on time."""
    return [
        {k: v for k, v in row.items() if k not in SECONDS}
        for row in read_rows(run / "metrics.jsonl")
    ]


def resume(run: Path) -> int:
    return main(["train", "--resume", str(run)])


def ends_as(run: Path, finished: Path) -> bool:
    names = ("checkpoint-7.safetensors", "partition.json", "config.json")
    same = all((run / n).read_bytes() == (finished / n).read_bytes() for n in names)
    return same and rows_of(run) == rows_of(finished)


def test_a_damaged_line_is_told_and_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    for number, text in ((3, lines[2][5:]), (1, "{}\n"), (2, "5\n"), (5, "\0" * 30 + "\n")):
        content = "".join([*lines[: number - 1], text, *lines[number:]])
        metrics.write_text(content)
        assert resume(run) == 2
        assert f"{metrics}" in (said := capsys.readouterr().err)
        assert f"line {number}" in said and said.count("\n") == 1
        assert metrics.read_text() == content


@pytest.mark.parametrize(("kept", "checkpoints"), [(4, 2), (3, 1), (2, 1), (1, 0)])
def test_a_torn_last_line_is_computed_again(
    kept: int, checkpoints: int, finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:kept]) + lines[kept][:25])
    for _, path in checkpoint.find(run)[: 2 - checkpoints]:
        path.unlink()
    last = read_rows(run / "metrics.jsonl")[-1]["step"]
    able = [step for step, _ in checkpoint.find(run) if last >= {7: 6, 6: 4}[step]]
    if not able and checkpoints:
        # the checkpoint is of step 6, and line 4 is not in it
        assert resume(run) == 2
        assert "metrics.jsonl lacks the line of step" in capsys.readouterr().err
        return
    assert resume(run) == 0
    assert ends_as(run, finished)


def test_a_kill_between_two_checkpoints_leaves_none_too_many(finished: Path, run: Path) -> None:
    """The last one is there, the oldest is not removed yet, and no step is left that would do it."""
    shutil.copy(run / "checkpoint-6.safetensors", run / "checkpoint-3.safetensors")
    (run / "curves.png").unlink()
    assert resume(run) == 0
    assert ends_as(run, finished)
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in finished.iterdir())


def test_rows_are_the_same_where_an_evaluation_lies_between_checkpoints(
    finished: Path, run: Path
) -> None:
    # 6 steps, of which the last 2 are in the sums since the line of step 4
    (run / "checkpoint-7.safetensors").unlink()
    assert resume(run) == 0
    assert ends_as(run, finished)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "cast", "renamed", "empty"])
def test_a_damaged_last_checkpoint_is_noticed(
    damage: str, finished: Path, run: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    path = run / "checkpoint-7.safetensors"
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:100])
    elif damage == "flipped":
        damaged = bytearray(whole)
        damaged[np.random.default_rng(seed).integers(len(whole))] ^= 1
        path.write_bytes(damaged)
    elif damage == "cast":
        content = load_file(path)
        save_file({**content, "x": content["x"].double()}, path)
    elif damage == "renamed":
        shutil.copy(run / "checkpoint-6.safetensors", path)
    else:
        path.write_bytes(b"")
    assert resume(run) == 0
    said = capsys.readouterr().out
    assert f"{path} is not a whole checkpoint" in said
    assert "going on at step 6 of 7" in said
    assert ends_as(run, finished)


def test_a_comparison_notices_a_damaged_checkpoint(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [*OPTIONS, "--algorithm", "qsaddle", "--seed", "0"]
    (planned,) = grid_source.build(None, options).cells()
    cell = shutil.copytree(finished, tmp_path / "c" / "cells" / planned.name)
    (cell / "checkpoint-7.safetensors").write_bytes(b"half")
    assert main(["compare", *options, "--out", str(tmp_path / "c"), "--jobs", "1"]) == 0
    said = capfd.readouterr().out
    assert "1 runs, 0 of them done before" in said
    assert f"{planned.name}: " in said and "is not a whole checkpoint" in said
    assert ends_as(cell, finished)
    assert pool.is_done(cell)


def test_every_flip_of_a_bit_is_refused(tmp_path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {
        "x": torch.randn(3, 32, generator=generator),
        "optimizer.x_hat": torch.randn(3, 32, generator=generator).bfloat16(),
        "loss_sum": torch.rand((), dtype=torch.float64, generator=generator),
    }
    path = checkpoint.save(tmp_path, state, 12, {"bytes_sent": 2**40 + 1})
    whole = path.read_bytes()
    bits = np.random.default_rng(seed).choice(8 * len(whole), 1200, replace=False)
    for bit in bits.tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint-12\.safetensors is not a whole"):
            checkpoint.load(path)


def test_a_checkpoint_without_a_checksum_goes_on(finished: Path, run: Path) -> None:
    (run / "checkpoint-7.safetensors").unlink()
    path = run / "checkpoint-6.safetensors"
    content = load_file(path)
    save_file({n: t for n, t in content.items() if n not in LATER}, path)
    assert resume(run) == 0
    assert ends_as(run, finished)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda c: {**c, "x": c["x"].double()}, r"x must be torch\.float32 .* got torch\.float64"),
        (lambda c: {**c, "x": c["x"][:2].clone()}, r"x must be torch.float32 \[3, 384\], got"),
        (lambda c: {n: t for n, t in c.items() if n != "counter.bytes_sent"}, "not count bytes_s"),
        (lambda c: {n: t for n, t in c.items() if n != "counter.step"}, "lacks counter.step"),
        (lambda c: {n: t for n, t in c.items() if n != "x"}, r"x must be .*, got none"),
        (lambda c: {**c, "y": c["x"].clone()}, "y must be absent, got"),
        (lambda c: {**c, "counter.evaluations": torch.tensor(-1)}, "must be a whole number >= 0"),
        (lambda c: {**c, "counter.step": torch.tensor([5, 6])}, "must be a whole number >= 0"),
    ],
)
def test_checkpoints_without_a_checksum_are_held_against_their_form(
    change: Callable[[Any], Any], rule: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoint-7.safetensors").unlink()
    path = run / "checkpoint-6.safetensors"
    content = load_file(path)
    save_file(change({n: t for n, t in content.items() if n not in LATER}), path)
    assert resume(run) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said
    assert re.search(rule, said)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda c: {**c, "agents": "16"}, "agents must be int, got '16'"),
        (lambda c: {**c, "agents": True}, "agents must be int, got True"),
        (lambda c: {**c, "agents": 0}, "--agents must be >= 1, got 0"),
        (lambda c: {**c, "lr": -0.5}, "--lr must be finite and > 0, got -0.5"),
        (lambda c: {**c, "lr": None}, "lr must be float, got None"),
        (lambda c: {**c, "init": "random"}, "init must be one of 'same', 'independent'"),
        (lambda c: {**c, "speed": 3}, "holds 'speed', which this version does not know"),
        (lambda c: {**c, "backend": {"consensus": 5}}, "backend.consensus must be str, got 5"),
        (lambda c: 5, "must hold values by name, got int"),
        (lambda c: {n: v for n, v in c.items() if n != "steps"}, "lacks steps"),
        (lambda c: {**c, "seed": 2**70}, "larger than 2^64"),
        (lambda c: {**c, "data_dir": "a\0b"}, "is no text"),
    ],
)
def test_a_config_that_no_version_writes(
    change: Callable[[Any], Any], rule: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert resume(run) in (0, 2)
    said = capsys.readouterr()
    (run / "curves.png").unlink()
    assert resume(run) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and rule in said


def test_json_that_is_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "config.json"
    whole = path.read_text()
    for text, rule in (
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        (whole.replace('"agents": 3', '"agents": 3, "agents": 4'), "'agents' is given twice"),
        (whole.replace('"agents": 3', '"agents": ' + "3" * 5000), "is damaged"),
        (whole.replace('"lr": 0.1', '"lr": NaN'), "nan is no number of JSON"),
        (whole.replace('"lr": 0.1', '"lr": 1e999'), "inf is no number of JSON"),
        (whole.replace('"digits"', '"\\ud800"'), "is no text"),
    ):
        path.write_text(text)
        assert resume(run) == 2
        assert str(path) in (said := capsys.readouterr().err) and rule in said
        assert said.count("\n") == 1
    path.write_bytes(b"\xff" + whole.encode())
    assert resume(run) == 2
    assert f"{path} is damaged" in capsys.readouterr().err


def test_what_a_killed_process_left_is_taken_over(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.json.partial", "checkpoint-3.safetensors.partial", ".tmpXy3b0Q"):
        (out / name).write_text('{"agents": ')
    assert main(["train", *OPTIONS, "--out", str(out)]) == 0
    assert ends_as(out, finished)
    assert not [*out.glob("*.partial"), *out.glob(".tmp*")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        check_new(tmp_path / "other")


def hold(path: Path, held: Any, done: Any) -> None:
    """Another process at its first moment: config.json has only half been written."""
    release = lock(path)
    (path / "config.json.partial").touch()
    held.set()
    done.wait(60)
    release()


def test_a_process_at_its_first_moment_keeps_the_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, done))
    process.start()
    try:
        assert held.wait(60)
        with pytest.raises(RunInUseError, match="in use by another process"):
            RunDirectory.create(tmp_path, {"steps": 9})
        assert (tmp_path / "config.json.partial").exists()
    finally:
        done.set()
        process.join()
    run = RunDirectory.create(tmp_path, {"steps": 9})
    with pytest.raises(RunInUseError):
        RunDirectory(tmp_path)
    run.close()
    with pytest.raises(ValueError, match="go on with that run"):
        RunDirectory.create(tmp_path, {"steps": 8})


def test_a_kill_at_the_first_moment_leaves_a_usable_directory(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code = (
        "import os, signal; from fastsaddle.sim.run import run_dir, whole_files\n"
        "whole_files.replace_synced = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pathlib import Path\n"
        f"run_dir.RunDirectory.create(Path({str(out)!r}), {{'steps': 9}})"
    )
    begin = time.monotonic()
    process = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL and time.monotonic() - begin < 120
    assert (out / "config.json.partial").exists()
    assert main(["train", *OPTIONS, "--out", str(out)]) == 0
    assert ends_as(out, finished)


def test_files_damaged_at_random(seed: int) -> None:
    found = files.run(seed % 2**32, 220)
    assert not files.faults(found), found
    # some of each kind are refused, and some are right
    assert sum(n for name, n in found.items() if name.endswith(files.REFUSED)) > 100
