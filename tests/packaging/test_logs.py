"""The library logs what was chosen and why, and says nothing unless it is asked."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.kernels import local_step
from fastsaddle.kernels.op import Op
from fastsaddle.sim.commands import train


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{r.levelname} {r.name} {r.getMessage()}" for r in caplog.records)


def test_there_is_a_handler_that_writes_nothing() -> None:
    handlers = logging.getLogger("fastsaddle").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


def test_backends_are_told_once_with_the_reasons(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = local_step
    assert isinstance(op, Op)
    models = nn.Parameter(torch.ones(4, 32))
    optimizer = fs.DSGD([models], lr=0.1, topology="ring", backend=None)
    optimizer.step(lambda: None)
    monkeypatch.setattr(op, "_chosen", {})
    monkeypatch.setattr(op, "_loaded", {"native": "it was not built"})
    caplog.set_level(logging.INFO, logger="fastsaddle")
    for _ in range(2):
        op._way("cpu")
    assert said(caplog) == (
        "INFO fastsaddle.kernels.op local_step runs on cpu by reference (native cannot: it was not built)"
    )


def test_optimizers_and_slow_paths_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="fastsaddle")
    stack = fs.AgentStack(nn.GRU(3, 4, batch_first=True), 4)
    optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, topology="ring")
    with pytest.warns(RuntimeWarning, match="cannot map"):
        stack(torch.ones(4, 2, 5, 3))
    text = said(caplog)
    numbers = optimizer.dim
    assert f"QSADDLe: gradient SAM, rule {optimizer.rule.described}, communicator" in text
    assert f"graph ring; 4 agents here, {numbers} numbers each, on cpu" in text
    assert "INFO fastsaddle.agents torch.vmap cannot map" in text
    before = len(caplog.records)
    stack(torch.ones(4, 2, 5, 3))
    assert len(caplog.records) == before


def test_a_run_tells_its_engine_checkpoints_and_where_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, one_thread: None
) -> None:
    caplog.set_level(logging.INFO, logger="fastsaddle")
    run = tmp_path / "run"
    options = ("--agents", "3", "--steps", "4", "--eval-every", "2", "--out", str(run))
    assert train.main([*options, "--minutes", "1e-6"]) == train.UNFINISHED
    assert train.main(["--resume", str(run), "--minutes", "1"]) == 0
    text = said(caplog)
    assert "gradients by engine batched, which auto has chosen; all agents at once" in text
    assert f"a new run in {run}" in text and f"checkpoint of step 4 in {run}" in text
    (run / "checkpoint-4.safetensors").unlink()
    (run / "metrics.jsonl.partial").touch()
    assert train.main(["--resume", str(run)]) == 0
    text = said(caplog)
    assert "metrics.jsonl.partial was left half written, and is removed" in text
    assert "going on from step" in text and "evaluations after step" in text


PROGRAM = """
import torch, fastsaddle as fs
models = torch.nn.Parameter(torch.ones(4, 32))
fs.DSGD([models], lr=0.1, topology="ring").step(lambda: None)
"""


@pytest.mark.parametrize("level", ["", "INFO", "debug", "loud"])
def test_the_environment_asks_for_it(level: str) -> None:
    env = {**os.environ, "FASTSADDLE_LOG": level, "RANK": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stderr.splitlines() if "fastsaddle." in line]
    if level == "debug":
        assert any(
            line.startswith("[3] DEBUG fastsaddle.optimizer.shell: DSGD: ") for line in lines
        )
    else:
        assert not any("DEBUG" in line for line in lines)
    assert ("FASTSADDLE_LOG must be one of debug, info" in done.stderr) == (level == "loud")
    assert done.stdout == ""
