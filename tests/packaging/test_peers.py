"""The benchmark beside peers: engines that crash, hang or refuse stop nothing, and its ratios."""

import importlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reporting import peers as reporting

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TURNS = f"import sys\nsys.path.insert(0, {str(BENCHMARKS / 'peers')!r})\nfrom _turns import *\n"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def start_(source: str, patience: float = 20) -> Any:
        script = tmp_path / "engine.py"
        script.write_text(TURNS + source)
        process = importlib.import_module("peers_process").EngineProcess
        started.append(process(str(script), ["7"], tmp_path / "scratch", patience))
        return started[-1]

    yield start_
    for process in started:
        process.end()


def test_turns_count_whole_rounds(start: Callable[..., Any]) -> None:
    engine = start(
        "print('not an answer')\n"
        "TURNS.begin('a note')\n"
        "while True:\n    time.sleep(0.02)\n    TURNS.steps += 5\n    TURNS.end_round()\n"
    )
    assert (engine.failure, engine.note) == ("", "a note")
    first, second = engine.turn(0), engine.turn(0.1)
    assert first["steps"] == 5
    # a pause between turns is nobody's time
    time.sleep(0.1)
    third = engine.turn(0)
    for found, least in ((first, 0.02), (second, 0.1), (third, 0.02)):
        assert found["steps"] % 5 == 0 and least <= found["wall"] and found["cpu"] < found["wall"]
    assert third["steps"] == 5 and 10 <= second["steps"] <= 25


def test_crash_refusal_and_silence(start: Callable[..., Any], tmp_path: Path) -> None:
    crashed = start("raise RuntimeError('no such ring')\n")
    assert crashed.failure == "crashed: RuntimeError: no such ring"
    assert crashed.turn(0) is None
    (tmp_path / "scratch").rename(tmp_path / "first")
    refused = start("refuse('too many agents')\n")
    assert refused.failure == "too many agents" and refused.turn(0) is None
    (tmp_path / "scratch").rename(tmp_path / "second")
    later = start("TURNS.begin()\nraise ValueError('in its turn')\n")
    assert later.failure == "" and later.turn(0) is None
    assert later.failure == "crashed: ValueError: in its turn"
    (tmp_path / "scratch").rename(tmp_path / "third")
    silent = start("time.sleep(60)\n", patience=0.3)
    assert silent.failure == "no answer for 0 s"


def test_end_takes_all_processes(start: Callable[..., Any]) -> None:
    engine = start(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "TURNS.begin(str(child.pid))\nTURNS.end_round()\n"
    )
    child = int(engine.note)
    os.kill(child, 0)
    engine.end()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the engine's own process outlived it")


KINDS = {
    "fastsaddle": "own",
    "loop": "loop",
    "a": "peer",
    "b": "peer",
    "c": "peer on all cores",
    "d": "peer without gossip",
}


def content(speeds: dict[str, float]) -> dict[str, Any]:
    """What the benchmark writes, for one size and these speeds."""
    engines = [
        {"name": n, "kind": k, "version": "1" if n in speeds else None, "package": f"{n}-pip"}
        for n, k in KINDS.items()
    ]
    results: list[dict[str, Any]] = [
        {"engine": name, "best": speed, "median": speed / 2, "a_cpu_second": 2000.0}
        for name, speed in speeds.items()
    ]
    machine = {"processor": "any", "cores": 2, "torch": "t", "python": "p", "date": "d", "load": 0}
    return {
        "machine": machine,
        "agents": [16],
        "engines": [{**engine, "words": "w"} for engine in engines],
        "results": [{**result, "agents": 16, "note": ""} for result in results],
    }


def test_report() -> None:
    peers = {"a": 100.0, "b": 250.0, "c": 1000.0, "d": 400.0}
    full = content({"fastsaddle": 2000.0, "loop": 800.0, **peers})
    expected = {
        "fastest peer": 5,
        "fastest peer that gossips": 8,
        "fastest peer on all cores": 2,
        "plain loop": 2.5,
    }
    assert reporting.ratios(full, 16, "best") == expected
    assert reporting.ratios(full, 16, "median") == expected
    assert set(reporting.ratios(full, 16, "a_cpu_second").values()) == {1}
    assert reporting.ratios(full, 64, "best") == {}
    assert "2,000, 1,000, 0.50 ms" in reporting.peers(full)
    alone = content({"fastsaddle": 2000.0, "loop": 800.0})
    alone["results"][1] = {"engine": "loop", "agents": 16, "note": "", "failure": "crashed: why"}
    text = reporting.details(alone)
    assert reporting.ratios(alone, 16, "best") == {}
    assert "* loop, 16 agents: crashed: why" in text and "* a: pip install a-pip" in text
    assert text.count("not installed") == 4 and text.count("not measured") == 1
