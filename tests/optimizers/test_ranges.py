"""Phases of a step are ranges for whoever profiles it, properly nested, and nothing where nobody does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ExecutionTraceObserver, ProfilerActivity, profile

import fastsaddle as fs
from fastsaddle.optimizer import ranges

CPU = [ProfilerActivity.CPU]


def made(kind: Callable[..., Any], **options: Any) -> tuple[Any, Callable[[], torch.Tensor]]:
    models = torch.nn.Parameter(torch.ones(4, 96))
    optimizer = kind([models], lr=0.1, **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (models**2).sum()
        loss.backward()
        return loss

    return optimizer, closure


def tree(found: profile) -> list[str]:
    """Ranges and steps in their order, each below the ranges that it lies in."""
    ours = [e for e in found.events() if e.name.startswith((ranges.PREFIX, "Optimizer.step"))]
    lines = []
    for event in sorted(ours, key=lambda e: (e.time_range.start, -e.time_range.end)):
        path, parent = [event.name.removeprefix(ranges.PREFIX)], event.cpu_parent
        while parent is not None:
            if parent in ours:
                path.append(parent.name.removeprefix(ranges.PREFIX))
            parent = parent.cpu_parent
        lines.append("/".join(reversed(path)))
    return lines


def of_step(optimizer: Any, *stages: str) -> list[str]:
    step = f"Optimizer.step#{type(optimizer).__name__}.step"
    return [step, *(f"{step}/{stage}" for stage in stages)]


@pytest.mark.parametrize(
    ("kind", "options", "stages"),
    [
        (
            fs.QSADDLe,
            {"topology": "ring"},
            (
                *("begin", "take", "take/evaluate", "take/perturb", "take/evaluate", "found"),
                *("step", "step/gossip", "keep"),
            ),
        ),
        (
            fs.DSGDm,
            {"topology": "ring", "compressor": fs.compressors.TopK(0.5)},
            (
                *("begin", "take", "take/evaluate", "found", "step", "step/gossip"),
                *("step/gossip/encode", "keep"),
            ),
        ),
        (
            fs.GradientTracking,
            {"topology": "ring"},
            ("begin", "take", "take/evaluate", "found", "step", "step/gossip", "keep"),
        ),
        (
            fs.LocalSGD,
            {"agents": 4, "period": 1},
            ("begin", "take", "take/evaluate", "found", "step", "average", "keep"),
        ),
    ],
)
def test_phases_are_ranges_inside_the_step(
    kind: Callable[..., Any], options: dict[str, Any], stages: tuple[str, ...]
) -> None:
    optimizer, closure = made(kind, **options)
    optimizer.step(closure)
    with profile(activities=CPU) as found:
        optimizer.step(closure)
    assert tree(found) == of_step(optimizer, *stages)
    optimizer.step(closure)
    assert optimizer.live.stages is None


def test_bits_do_not_depend_on_whoever_looks() -> None:
    (watched, of_watched), (alone, of_alone) = (made(fs.QSADDLe, topology="ring") for _ in "ab")
    for _ in range(3):
        with profile(activities=CPU):
            watched.step(of_watched)
        alone.step(of_alone)
    assert torch.equal(watched.rows.x, alone.rows.x)


def test_nothing_is_made_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a range where nobody looks")

    monkeypatch.setattr(ranges, "_range", never)
    optimizer, closure = made(fs.QSADDLe, topology="ring")
    optimizer.step(closure)
    closure()
    optimizer.perturb(zero_grad=True)
    closure()
    optimizer.step()
    assert ranges.ranged("take") is ranges.NOTHING


def test_two_phases_by_hand_and_steps_that_fail() -> None:
    optimizer, closure = made(fs.QSADDLe, topology="ring")
    with profile(activities=CPU) as found:
        closure()
        optimizer.perturb(zero_grad=True)
        closure()
        optimizer.step()
    stages = ("begin", "take", "found", "step", "step/gossip", "keep")
    assert tree(found) == ["perturb", *of_step(optimizer, *stages)]

    def broken() -> torch.Tensor:
        raise OSError("no batch")

    with profile(activities=CPU) as found:
        with pytest.raises(OSError, match="no batch"):
            optimizer.step(broken)
        optimizer.step(closure)
    first = of_step(optimizer, "begin", "take", "take/evaluate")
    second = ("begin", "take", "take/evaluate", "take/perturb", "take/evaluate")
    assert tree(found)[: len(first)] == first
    assert tree(found)[len(first) :][: 1 + len(second)] == of_step(optimizer, *second)
    assert optimizer.live.stages is None


def test_nvtx_has_the_same_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ranges, "NVTX", True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", said.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: said.append("end"))
    optimizer, closure = made(fs.DSGDm, topology="ring")
    optimizer.step(closure)
    names = ["begin", "end", "take", "evaluate", "end", "end", "found", "end"]
    names += ["step", "gossip", "end", "end", "keep", "end"]
    assert said == [name if name == "end" else ranges.PREFIX + name for name in names]


@pytest.mark.gpu
def test_nvtx_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "NVTX", True)
    optimizer, closure = made(fs.DSGDm, topology="ring")
    optimizer.step(closure)


def test_execution_traces_have_steps_and_ops_beside_a_profile(tmp_path: Path) -> None:
    optimizer, closure = made(fs.DSGDm, topology="ring")
    file = str(tmp_path / "trace.json")
    observer = ExecutionTraceObserver().register_callback(file)
    with profile(activities=CPU, execution_trace_observer=observer):
        optimizer.step(closure)
    observer.unregister_callback()
    names = {node["name"] for node in json.loads(Path(file).read_text())["nodes"]}
    assert names >= {"fastsaddle::gossip_step", "fastsaddle.step", "Optimizer.step#DSGDm.step"}


def test_hooks_alone_make_no_ranges() -> None:
    optimizer, closure = made(fs.DSGDm, topology="ring")
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer.live.stages))
    optimizer.step(closure)
    assert seen == [None]
