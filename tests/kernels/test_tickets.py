"""Counters that programs of a launch share: of streams that may run at the same time, none sees another's."""

import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch

from fastsaddle import use_backend
from fastsaddle.kernels._shared.rows import tickets_triton
from fastsaddle.kernels._shared.rows.tickets_triton import tickets
from fastsaddle.kernels.op import ops

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
INTERPRETING = importlib.util.find_spec("triton") is not None and bool(
    os.environ.get("TRITON_INTERPRET")
)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """A list whose last entry is the number of the current stream, None while it is captured."""
    now: list[int | None] = [7]
    monkeypatch.setattr(tickets_triton, "_kept", {})
    monkeypatch.setattr(tickets_triton, "current_stream", lambda device: now[-1])
    return now


def test_each_stream_has_its_own(streams: list[int | None]) -> None:
    first = tickets(5, CPU)
    assert first.dtype == torch.int32 and first.shape == (5,) and not first.any()
    assert tickets(5, CPU) is first and tickets(3, CPU) is first
    streams.append(8)
    second = tickets(5, CPU)
    assert second.data_ptr() != first.data_ptr()
    streams.append(7)
    assert tickets(5, CPU) is first
    more = tickets(6, CPU)
    assert more.shape == (6,) and not more.any() and tickets(2, CPU) is more
    assert tickets(6, torch.device("meta")).device.type == "meta"


def test_each_launch_of_a_captured_graph_has_its_own(streams: list[int | None]) -> None:
    eager = tickets(4, CPU)
    streams.append(None)
    captured = [tickets(4, CPU) for _ in range(3)]
    assert len({t.data_ptr() for t in (eager, *captured)}) == 4
    assert not any(t.any() for t in captured)
    streams.append(7)
    assert tickets(4, CPU) is eager


def test_which_stream_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tickets_triton.current_stream(CPU) == 0
    streams, capturing = {GPU: SimpleNamespace(cuda_stream=93)}, [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.cuda, "current_stream", streams.__getitem__)
    assert tickets_triton.current_stream(GPU) == 93
    capturing[0] = True
    assert tickets_triton.current_stream(GPU) is None


@pytest.mark.skipif(not INTERPRETING, reason="test_interpreter.py runs it where Triton interprets")
def test_a_launch_in_progress_does_not_disturb_another_stream_triton(
    streams: list[int | None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    # two slices a row
    g = torch.randn(3, 8224, generator=torch.Generator().manual_seed(seed))
    expected, place = g.double().square().sum(1).sqrt().float(), InterpreterBuilder.set_grid_idx

    def norms() -> torch.Tensor:
        norm = torch.full((3,), -1.0)
        with use_backend("triton"):
            ops()["agent_norm"](g, None, None, norm, torch.zeros(3, dtype=torch.int32))
        return norm

    def agrees(norm: torch.Tensor) -> bool:
        return torch.allclose(norm, expected, rtol=2.0**-22, atol=0)

    def until_the_fourth(self: object, x: int, y: int, z: int) -> None:
        if x == 3:
            raise KeyboardInterrupt
        place(self, x, y, z)

    assert agrees(norms()) and not tickets(3, CPU).any()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(InterpreterBuilder, "set_grid_idx", until_the_fourth)
        norms()
    assert tickets(3, CPU).tolist() == [0, 1, 0]
    # its counters are in use: with them a norm is never finished, or too early
    assert not agrees(norms())
    streams.append(8)
    assert agrees(norms()) and not tickets(3, CPU).any()
