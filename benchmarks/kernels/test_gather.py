"""Batches gathered from 60,000 images in random order, beside `torch.index_select` on the same images as float32.

Each call takes other samples, so that they come from memory and not from a cache. `of_index_select` is a call's time
over that of an `index_select` beside it; where nothing is moved at most 1.3 is asked for.
"""

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.conftest import Measure, kind, scale, seconds, synchronized
from fastsaddle.kernels.op import ops, use_backend

GATHER_BATCH = ops()["gather_batch"]
# agents, batch, samples
SIZES = {"cpu": (16, 32, 60_000), "cuda": (256, 32, 60_000), "tiny": (3, 2, 9)}
SHAPES = ((1, 28, 28), (3, 32, 32))
PAD = 4
# sets of indices before the first comes again
SETS = 64
BACKENDS = ("native", "triton", "reference")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    absent = GATHER_BATCH.unavailable(kind(metafunc.config))
    able = [backend for backend in BACKENDS if backend not in absent]
    cases = [(backend, moves) for backend in able for moves in (False, True)]
    named = [f"{backend}{'-moved' * moves}" for backend, moves in cases]
    metafunc.parametrize(
        ("implementation", "moves"),
        [("index_select", False), *cases],
        ids=["index_select", *named],
    )
    shapes = SHAPES[:1] if scale(metafunc.config) == "tiny" else SHAPES
    metafunc.parametrize("shape", shapes, ids=str)


@pytest.fixture
def size(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return SIZES[scale(request.config)]


def test_gather(
    implementation: str,
    moves: bool,
    shape: tuple[int, int, int],
    size: tuple[int, int, int],
    measure: Measure,
    device: str,
) -> None:
    agents, batch, samples = size
    levels = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, device=device)
    table = torch.randn(shape[0], 256, device=device)
    # written to, as memory that never was is no memory to read from
    numbers = levels.flatten(1).float()
    out = torch.empty(agents, batch, *shape, device=device)
    drawn = torch.randint(0, samples, (SETS, agents, batch), device=device)
    turns = itertools.cycle(drawn)
    moved: tuple[torch.Tensor | None, ...] = (None, None, None)
    if moves:
        offsets = torch.randint(-PAD, PAD + 1, (agents, batch, 2), device=device).short()
        moved = table[:, 0].contiguous(), offsets, torch.rand(agents, batch, device=device) < 0.5

    def select() -> None:
        rows = out.view(agents * batch, -1)
        torch.index_select(numbers, 0, next(turns).flatten(), out=rows)

    def gather() -> None:
        GATHER_BATCH(levels, next(turns), out, table, *moved)

    work = select if implementation == "index_select" else gather
    backend = None if implementation == "index_select" else implementation
    with use_backend(backend):
        measure(
            work,
            moved=out.nbytes + out.nbytes // (1 if work is select else 4),
            implementation=implementation,
            agents=agents,
            dim=out[0].numel(),
            info={
                "op": "gather_batch" + ", crops and flips" * moves,
                "passes": 2 if work is select else 1.25,
                "of_index_select": ratio(work, select, device),
            },
        )


def ratio(work: Callable[[], Any], beside: Callable[[], Any], device: str) -> float:
    """The median of how much longer `work` takes than `beside`, in turns."""
    pair = [synchronized(call, device) for call in (work, beside)]
    turns = [[seconds(call) for call in pair] for _ in range(SETS)]
    return round(statistics.median(mine / other for mine, other in turns), 2)
