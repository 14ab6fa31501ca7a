"""The benchmark of agents over processes: that it runs, ends what it started, and what its table says."""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reporting.ranks import ranks

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_all_that_needs_no_peer_runs(tmp_path: Path) -> None:
    parts = ["exchange", "step", "compressed", "overlap", "wire"]
    command = [sys.executable, BENCHMARKS / "ranks.py", "--tiny", "--out", tmp_path]
    done = subprocess.run([*command, "--only", *parts], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "ranks.json").read_text())["parts"]
    assert list(found) == parts
    ratios = [row for part in parts[:4] for row in found[part]["rows"]]
    assert len(ratios) == 12
    for row in ratios:
        low, high = row["quartiles"]
        assert low <= row["measured"] <= high and row["processor"] > 0
    # to the byte, of whatever kind of message
    assert [row["sent"] for row in found["wire"]["rows"]] == [
        row["due"] for row in found["wire"]["rows"]
    ]
    assert done.stdout.endswith(f"reporting show ranks --results {tmp_path}\n")
    assert ranks({"parts": found}).count("at most") == 13


@pytest.fixture
def two_processes(tmp_path: Path) -> Iterator[Any]:
    process = importlib.import_module("peers_process").EngineProcess(
        "fastsaddle_ranks.py", ["4", "all-cores", "mlp"], tmp_path / "scratch", 120
    )
    yield process
    process.end()


def test_a_run_in_two_processes_takes_turns(two_processes: Any) -> None:
    assert two_processes.failure == "" and two_processes.note.startswith("2 processes, ")
    first, second = two_processes.turn(0), two_processes.turn(0.2)
    assert first["steps"] == 4 and second["steps"] > 4 and second["steps"] % 4 == 0
    for turn in (first, second):
        assert 0 <= turn["carrying"] < turn["cpu"] and turn["wall"] > 0


def sleeps(seconds: float) -> None:
    time.sleep(seconds)


def fails() -> None:
    raise ValueError("no such ring")


def test_processes_that_fail_or_hang_are_told_of_and_ended() -> None:
    group = importlib.import_module("over_ranks.group")
    with pytest.raises(RuntimeError, match=r"(?s)rank [01] of 2: .*no such ring"):
        group.measured(fails, 2, bound=60)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"ranks 0, 1 of 2 were not done after 0\.5 s"):
        group.measured(sleeps, 2, 60, bound=0.5)
    assert time.monotonic() - begin < 30


def test_ratios_are_of_the_slowest_rank_and_of_all_processors() -> None:
    ratio = importlib.import_module("over_ranks.turns").ratio
    ranks = [
        {"a": [(3.0, 1.0), (1.0, 1.0)], "b": [(1.0, 2.0), (1.0, 2.0)]},
        {"a": [(1.0, 1.0), (8.0, 1.0)], "b": [(2.0, 2.0), (1.0, 2.0)]},
    ]
    found = ratio(ranks, "a", "b", 2.0)
    # 3 / 2 and 8 / 1, twice
    assert found["measured"] == 9.5 and found["processor"] == 1.0


def test_table() -> None:
    machine = {"processor": "any", "cores": 2, "torch": "t", "python": "p", "date": "d", "load": 3}
    met = {"measured": 1.1, "quartiles": [1.0, 1.25], "processor": 0.9}
    turns = [{"steps": 8, "wall": 1.0, "cpu": 2.0, "carrying": 0.5}] * 2
    slow = [{"steps": 2, "wall": 1.0, "cpu": 1.0}] * 2
    names = ("fastsaddle", "fastsaddle, 2 processes", "decent-dp, all cores")
    results = [
        {"network": "n", "agents": 4, "engine": name, "turns": each}
        for name, each in zip(names, (turns, turns, slow), strict=True)
    ]
    rows = {
        "exchange": [{"case": "8 bits", "ranks": 4, "of_row": 0.25, **met}],
        "compressed": [{"ranks": 4, **met}],
        "overlap": [{"case": "NGM", "ranks": 2, "megabits": 1_000, "of_off": 0.75, **met}],
        "wire": [{"case": "row", "measured": 0}, {"case": "sign", "measured": 1}],
        "training": results,
    }
    loads = {name: {**machine, "load": load} for load, name in enumerate(rows)}
    parts = {name: {"machine": loads[name], "rows": rows[name]} for name in rows}
    text = ranks({"parts": parts})
    for line in (
        "load at the start 0 to 4",
        "8 bits, 4 ranks / `batch_isend_irecv` | at most 1.15 | 1.10 | 1.00 to 1.25 | 0.90 | yes |",
        "/ exchange of rows | at most 0.5 | 1.10 | 1.00 to 1.25 | 0.90 | no |",
        "payload + 128 a message (row, sign) | at most 0 | 1 |  |  | no |",
        "/ in one process | at most 1.25 | 1.00 | 1.00 to 1.00 |  | yes |",
        "/ decent-dp on all cores | at least 3 | 4.00 | 4.00 to 4.00 | 2.00 | yes |",
        "8-bit codes alone take 0.25 of the time",
        "gloo's own threads take 25 % with n",
        "step with overlap, NGM, 2 ranks, an emulated link of 1,000 Mbit/s / the longer",
        "without overlap one with it takes 0.75 (NGM, 2 ranks",
    ):
        assert line in text
    del parts["training"]["rows"][2]
    assert "decent-dp" not in ranks({"parts": parts})


def test_every_ratio_of_the_page_is_in_the_json() -> None:
    """Counted from the JSON, with no help of the report's code."""
    parts = json.loads((BENCHMARKS / "results" / "ranks.json").read_text())["parts"]
    assert list(parts) == ["exchange", "step", "compressed", "overlap", "wire", "training"]
    text = (BENCHMARKS.parent / "docs" / "measured.md").read_text()
    rows = [
        row for name in ("exchange", "step", "compressed", "overlap") for row in parts[name]["rows"]
    ]
    assert len(rows) == 18
    for row in rows:
        low, high = row["quartiles"]
        assert (
            f"| {row['measured']:.2f} | {low:.2f} to {high:.2f} | {row['processor']:.2f} |" in text
        )
    assert all(row["sent"] == row["due"] > 0 for row in parts["wire"]["rows"])
