"""Block shapes of streaming kernels, and those that a table chooses, each against the copy bandwidth."""

import importlib
from typing import Any

import pytest
import torch

from benchmarks.conftest import Measure, kind
from benchmarks.kernels.test_ops import DRAWN, compare, widened
from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
from fastsaddle.kernels._shared.shapes.table import forced, table
from fastsaddle.kernels.op import ops, use_backend

# op -> the module that launches its kernel
LAUNCHERS = {
    "sam_perturb": "fastsaddle.kernels.sam_perturb.triton_gpu",
    "local_step": "fastsaddle.kernels._shared.step.gossip_triton",
}
SHAPES = [(columns, warps) for columns in (512, 1024, 2048, 4096) for warps in (4, 8)]
SIZES = ((16, 2**22), (1024, 2**16))
TINY_SIZES, TINY_SHAPES = ((2, 1100),), (SHAPES[0], SHAPES[-1])
# numbers of a buffer that alternatives of the table are measured with, and agents where an entry is for any number
ELEMENTS = 2**25
MANY = {"gossip_step": 1024, "quantize": 16, "choco_step": 32, "mix_dense": 256}
TINY_AGENTS = {"gossip_step": 65, "quantize": 3, "choco_step": 3, "mix_dense": 3}


def bounds(kernel: str) -> list[int | None]:
    """The most agents of each of a kernel's entries."""
    return [entry["agents"] for entry in table()["default"][kernel]]


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


@pytest.mark.parametrize(
    ("kernel", "number", "alternative"),
    [
        (kernel, number, name)
        for kernel, names in ALTERNATIVES.items()
        for number in range(len(bounds(kernel)))
        for name in names
    ],
)
def test_alternative(
    kernel: str,
    number: int,
    alternative: str,
    measure: Measure,
    device: str,
    gpu_or_tiny: bool,
    request: pytest.FixtureRequest,
) -> None:
    """Every shape that the table may choose, for the stacks of each of its entries."""
    op, names = ops()[kernel], [*ALTERNATIVES[kernel]]
    reason = op.unavailable(kind(request.config)).get("triton")
    if reason is not None:
        pytest.skip(reason)
    if gpu_or_tiny and (number > 0 or alternative not in (names[0], names[-1])):
        pytest.skip("two shapes for few agents show that it runs")
    bound = bounds(kernel)[number]
    agents = (bound or MANY[kernel]) if not gpu_or_tiny else TINY_AGENTS[kernel]
    dim = 96 if gpu_or_tiny else ELEMENTS // agents
    example = next(iter(op.examples(agents, DRAWN, torch.Generator().manual_seed(0)).values()))
    arguments: dict[str, Any] = widened(op, example, dim, device)
    with forced(kernel, alternative), use_backend("triton"):
        compare(op, "triton", arguments)
        measure(
            lambda: op(*arguments.values()),
            moved=op.passes(arguments) * agents * dim * 4,
            implementation="triton",
            agents=agents,
            dim=dim,
            info={"choice": kernel, "to_agents": bound, "alternative": alternative},
        )
