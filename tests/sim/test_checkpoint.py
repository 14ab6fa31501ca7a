"""Checkpoints and a run's directory: exact, equal for equal states, whole after any failure."""

import errno
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsaddle.sim.comparison.final_sharpness import SHARPNESS
from fastsaddle.sim.comparison.pool import DIVERGED
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report.runs import PARTITION
from fastsaddle.sim.run import checkpoint, directory_lock, whole_files
from fastsaddle.sim.run.job import CLASSES, CURVES
from fastsaddle.sim.run.run_dir import CONFIG, RunDirectory, check_new


def random_state(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(3, 128, generator=generator),
        "optimizer.quasi_global": torch.randn(3, 128, generator=generator),
        "buffer.norm.count": torch.randint(1, 99, (3,), generator=generator),
    }


def row_of(step: int, loss: float) -> dict[str, Any]:
    shares = ("consensus_accuracy", "mean_accuracy", "worst_accuracy")
    rest = {"consensus_distance": 0.1, "bytes_sent": 7, "seconds": 1.5}
    return {"step": step, "loss": loss, **dict.fromkeys(shares, 0.25), **rest}


def test_round_trip(tmp_path: Path, seed: int) -> None:
    state = random_state(seed)
    path = checkpoint.save(tmp_path, state, step=40, counters={"bytes_sent": 2**40 + 1})
    assert path.name == "checkpoint-40.safetensors"
    loaded, step, counters = checkpoint.load(path)
    assert (step, counters) == (40, {"bytes_sent": 2**40 + 1})
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_equal_states_make_equal_bytes(tmp_path: Path, seed: int) -> None:
    state = random_state(seed)
    content = set()
    for i, names in enumerate((list(state), sorted(state), sorted(state, reverse=True))):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = checkpoint.save(folder, {name: state[name] for name in names}, 7, {"bytes_sent": 11})
        content.add(path.read_bytes())
    assert len(content) == 1


def test_keeps_the_last_two(tmp_path: Path, seed: int) -> None:
    for step in (5, 20, 100):
        checkpoint.save(tmp_path, random_state(seed), step, {"bytes_sent": step})
    assert [step for step, _ in checkpoint.find(tmp_path)] == [100, 20]
    assert len(list(tmp_path.iterdir())) == 2


def test_is_readable_by_others(tmp_path: Path, seed: int) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    path = checkpoint.save(tmp_path, random_state(seed), 1, {"bytes_sent": 1})
    assert path.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_one(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    state = random_state(seed)
    before = checkpoint.save(tmp_path, state, 1, {})
    content = before.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, random_state(seed + 1), 2, {})
    assert [path.name for path in tmp_path.iterdir()] == [before.name]
    assert before.read_bytes() == content


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, seed: int) -> None:
    path = checkpoint.save(tmp_path, random_state(seed), 1, {"bytes_sent": 1})
    for name in ("checkpoint-2.safetensors.partial", ".tmpB5pQzg", "metrics.jsonl.partial"):
        (tmp_path / name).write_bytes(b"half")
    checkpoint.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_all_that_a_run_writes_is_known_half_written(tmp_path: Path) -> None:
    digest = f"{random.getrandbits(64):016x}"
    for name in (
        *(CONFIG, PARTITION, DIVERGED, SHARPNESS, CURVES, CLASSES, "metrics.jsonl"),
        *("checkpoint-0.safetensors", "checkpoint-120.safetensors", f"surface-{digest}.npz"),
    ):
        with whole_files.writing(tmp_path / name) as partial:
            partial.write_text("half")
            assert checkpoint.is_leftover(partial)
        assert not checkpoint.is_leftover(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        *("thesis.partial", ".partial", "config.json.partial.partial", "my-config.json.partial"),
        *("checkpoint-best.safetensors.partial", "surface-1.npz.partial", "notes.tmpB5pQzg"),
        *(".tmp", ".tmp.txt", ".tmp-notes", ".tmpB5pQz", ".tmpB5pQzg1", ".tmpB5pQzg\n"),
    ],
)
def test_files_of_others_are_no_leftovers(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    checkpoint.remove_leftovers(tmp_path)
    with pytest.raises(ValueError, match="is not empty"):
        RunDirectory.create(tmp_path, {"steps": 9})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "mine")]


def test_damaged_files_are_named(tmp_path: Path, seed: int) -> None:
    path = checkpoint.save(tmp_path, random_state(seed), 3, {})
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoint-3\.safetensors is not a whole"):
            checkpoint.load(path)


def test_rows_after_a_step_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {"steps": 9})
    for step in (0, 10, 20):
        run.append(row_of(step, 1 / (step + 3)))
    rows = run.rows
    del run
    metrics = tmp_path / "run" / "metrics.jsonl"
    with metrics.open("a") as stream:
        stream.write('{"step": 30, "lo')
    run = RunDirectory(tmp_path / "run")
    assert run.rows == rows
    run.drop_rows_after(10)
    run.append(row_of(20, 0.5))
    lines = metrics.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*rows[:2], row_of(20, 0.5)]


def test_options_of_an_older_version_are_read(tmp_path: Path) -> None:
    written = {**TrainConfig(steps=7, lr=0.3, threads=1, eval_every=2).plain(), "engine": "vmap"}
    older = {name: value for name, value in written.items() if name not in ("sam", "ccl_model")}
    run = RunDirectory.create(tmp_path / "older", older)
    assert run.options == replace(TrainConfig(**written), data_dir=None)
    broken = {name: value for name, value in written.items() if name not in ("lr", "steps")}
    with pytest.raises(ValueError, match=r"config\.json lacks steps, lr"):
        _ = RunDirectory.create(tmp_path / "broken", broken).options


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, {"steps": 9})
    with pytest.raises(ValueError, match="is in use by another process"):
        RunDirectory(tmp_path)
    assert run.config == {"steps": 9}
    del run
    assert RunDirectory(tmp_path).config == {"steps": 9}


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOLCK])
def test_a_run_where_nothing_can_be_written_or_locked(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CONFIG).write_text('{"steps": 9}')

    def fail(*given: Any, **named: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(directory_lock.FileLock, "acquire", fail)
    if code == errno.ENOLCK:
        run = RunDirectory(tmp_path)
        assert run.config == {"steps": 9}
        run.close()
        return
    with pytest.raises(ValueError, match=r"nothing can be written in .*Read-only"):
        RunDirectory(tmp_path)


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run"):
        RunDirectory(tmp_path)
    (tmp_path / "config.json").write_text('{"steps": ')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        RunDirectory(tmp_path)
    with pytest.raises(ValueError, match=r"is not empty.*or go on with.*--resume"):
        check_new(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        check_new(tmp_path / "config.json")
    (tmp_path / "empty").mkdir()
    check_new(tmp_path / "empty")
    check_new(tmp_path / "absent")
