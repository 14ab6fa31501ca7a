"""Block shapes of streaming kernels, and programs that stay where programs walk, each against the copy bandwidth."""

import importlib
from typing import Any

import pytest
import torch

from benchmarks.conftest import Measure, kind
from benchmarks.kernels.test_ops import DRAWN, compare, widened
from fastsaddle.kernels.op import ops, use_backend

# op -> the module that launches its kernel
LAUNCHERS = {
    "sam_perturb": "fastsaddle.kernels.sam_perturb.triton_gpu",
    "local_step": "fastsaddle.kernels._shared.step.gossip_triton",
}
SHAPES = [(columns, warps) for columns in (512, 1024, 2048, 4096) for warps in (4, 8)]
SIZES = ((16, 2**22), (1024, 2**16))
TINY_SIZES, TINY_SHAPES = ((2, 1100),), (SHAPES[0], SHAPES[-1])
# programs of a multiprocessor that walk over the slices of a large stack
RESIDENT = (1, 2, 3, 4)


@pytest.mark.parametrize("size", range(len(SIZES)))
@pytest.mark.parametrize(("columns", "warps"), SHAPES)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_shape(
    name: str,
    columns: int,
    warps: int,
    size: int,
    measure: Measure,
    device: str,
    gpu_or_tiny: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    op = ops()[name]
    reason = op.unavailable(kind(request.config)).get("triton")
    if reason is not None:
        pytest.skip(reason)
    if gpu_or_tiny and (size >= len(TINY_SIZES) or (columns, warps) not in TINY_SHAPES):
        pytest.skip("one size and two shapes show that it runs")
    agents, dim = (TINY_SIZES if gpu_or_tiny else SIZES)[size]
    example = next(iter(op.examples(agents, DRAWN, torch.Generator().manual_seed(0)).values()))
    arguments: dict[str, Any] = widened(op, example, dim, device)
    launcher = importlib.import_module(LAUNCHERS[name])
    monkeypatch.setattr(launcher, "STREAM_COLUMNS", columns)
    # every launch passes these on to Triton
    monkeypatch.setattr(launcher, "EXACT", {**launcher.EXACT, "num_warps": warps})
    compare(op, "triton", arguments)
    with use_backend("triton"):
        measure(
            lambda: op(*arguments.values()),
            moved=op.passes(arguments) * agents * dim * 4,
            implementation="triton",
            agents=agents,
            dim=dim,
            info={"shape_of": name, "columns": columns, "warps": warps},
        )


@pytest.mark.parametrize("resident", RESIDENT)
def test_walking_programs(
    resident: int,
    measure: Measure,
    device: str,
    gpu_or_tiny: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    op = ops()["gossip_step"]
    reason = op.unavailable(kind(request.config)).get("triton")
    if reason is not None:
        pytest.skip(reason)
    if gpu_or_tiny and resident != RESIDENT[-1]:
        pytest.skip("one number shows that it runs")
    agents, dim = (257, 96) if gpu_or_tiny else (1024, 2**16)
    example = op.examples(agents, DRAWN, torch.Generator().manual_seed(0))["quasi-global"]
    arguments: dict[str, Any] = widened(op, example, dim, device)
    walking = importlib.import_module("fastsaddle.kernels.gossip_step.slices_triton")
    monkeypatch.setattr(walking, "RESIDENT", resident)
    walking.programs_at_once.cache_clear()
    try:
        compare(op, "triton", arguments)
        with use_backend("triton"):
            measure(
                lambda: op(*arguments.values()),
                moved=op.passes(arguments) * agents * dim * 4,
                implementation="triton",
                agents=agents,
                dim=dim,
                info={
                    "shape_of": f"gossip_step, {resident} programs a multiprocessor",
                    "columns": walking.COLUMNS,
                    "warps": walking.WARPS,
                },
            )
    finally:
        walking.programs_at_once.cache_clear()
