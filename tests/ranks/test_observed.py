"""Over processes: exchanges are ranges inside a step, ranks say who they are, and the first one alone tracks."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.optimizer import ranges
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.launches import forked
from tests.ranks.over_threads import closure_of

COUNTS = (3, 1)


def a_step(transport: Any) -> None:
    placement = Placement(COUNTS, transport)
    models = nn.Parameter(torch.ones(placement.agents, 40))
    optimizer = fs.QSADDLe([models], lr=0.1, topology="ring", placement=placement)
    optimizer.step(closure_of(optimizer, placement.first_agent, []))


def test_exchanges_are_ranges_inside_gossip(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[int, list[str]] = {}

    def push(name: str) -> None:
        said.setdefault(threading.get_ident(), []).append(name)

    monkeypatch.setattr(ranges, "NVTX", True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", push)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: push("end"))
    run_in_threads(len(COUNTS), a_step)
    assert len(said) == len(COUNTS)
    for names in said.values():
        step = names[names.index("fastsaddle.step") :]
        assert step[:4] == ["fastsaddle.step", "fastsaddle.gossip", "fastsaddle.exchange", "end"]
        assert names.count("end") == len(names) - names.count("end")


def test_ranks_say_who_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="fastsaddle")
    run_in_threads(len(COUNTS), a_step)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "rank 0 of 2 holds agents 0 to 2 of 4, overlap off" in text
    assert "rank 1 of 2 holds agents 3 to 3 of 4" in text
    assert "rank 1 sends rows of agents {0: (3,)}, and hears {0: (0, 2)}" in text


def test_the_first_process_alone_tracks(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import os\n"
        "import fastsaddle as fs\n"
        "class Mine(fs.sim.Tracker):\n"
        "    def __init__(self):\n"
        "        self.lines = ['made']\n"
        "    def begin(self, run):\n"
        "        self.file = run.directory / f'rank-{os.environ[\"RANK\"]}.txt'\n"
        "    def show_evaluation(self, row):\n"
        "        self.lines.append(str(row['step']))\n"
        "    def end(self, state):\n"
        "        self.file.write_text(' '.join([*self.lines, state]))\n"
    )
    run = tmp_path / "run"
    words = ("--agents", "4", "--steps", "4", "--eval-every", "2", "--out", str(run))
    forked(2, *words, "--track", f"{tmp_path / 'own.py'}:Mine", folder=tmp_path)
    assert (run / "rank-0.txt").read_text() == "made 0 2 4 finished"
    assert [path.name for path in run.glob("rank-*.txt")] == ["rank-0.txt"]
