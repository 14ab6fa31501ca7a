"""The benchmark of growth: its ratios and its reading of resident memory."""

import importlib
import itertools
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.reporting.growth import growth as report
from fastsaddle.sim.data.samples import Samples


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("growth")


def one_pass(threads: int, agents: int, seconds: float, peak: int) -> dict[str, Any]:
    return {"threads": threads, "agents": agents, "median_seconds": seconds, "peak_bytes": peak}


def test_best_pass_over_extrapolation(growth: ModuleType, seed: int) -> None:
    best = [
        one_pass(1, 64, 0.5, 1000),
        one_pass(1, 192, 3.0, 2400),
        one_pass(2, 64, 0.25, 1000),
        one_pass(2, 192, 0.6, 4500),
    ]
    worse = [one_pass(p["threads"], p["agents"], p["median_seconds"] + 1, 9999) for p in best]
    passes = best + worse
    random.Random(seed).shuffle(passes)
    rows = growth.over_linear(passes)
    found = [(r["threads"], r["agents"], r["time_over_linear"], r["memory_over_linear"]) for r in rows]  # fmt: skip
    expected = [(1, 64, 1, 1), (1, 192, 2, 0.8), (2, 64, 1, 1), (2, 192, 0.8, 1.5)]
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    assert list(itertools.chain(*found)) == pytest.approx(list(itertools.chain(*expected)))
    machine = {"processor": "any", "cores": 2, "torch": "t", "python": "p", "date": "d", "load": 0}
    text = report({"machine": machine, "chunk": None, "rows": rows})
    assert "The largest ratio is 2.00; at most 1.5 is asked for." in text
    assert "threads 1 and 2" in text and text.count(" 3000.0 ") == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_peak_of_resident_memory(growth: ModuleType) -> None:
    # in a process of its own: freed memory of other tests would be used again
    code = f"""
import sys
sys.path.insert(0, {str(Path(growth.__file__ or "").parent)!r})
import growth, pathlib, torch
torch.ones(9).sum()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = growth.resident("VmRSS")
torch.ones(2**25)
print(growth.resident("VmHWM") - before, growth.resident("VmRSS") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, left = map(int, done.stdout.split())
    # freed again, so only the peak knows of it
    assert left < 2**26
    assert 0.95 * 2**27 < peak < 1.2 * 2**27


@pytest.mark.usefixtures("one_thread")
def test_every_size_trains(growth: ModuleType, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(150, 1, 28, 28, generator=source)
    labels = torch.arange(150) % 10
    training = growth.Training(Samples(inputs), labels, 3, None)
    before = training.engine.stack.x.clone()
    for number in range(2):
        training.step(number)
    moved = (training.engine.stack.x - before).abs().sum(1)
    assert (moved > 0).all() and training.engine.stack.x.isfinite().all()
