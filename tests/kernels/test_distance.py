"""Distances have consensus' bits where the mean is that of the same rows, whichever of them are given."""

import pytest
import torch

from fastsaddle.kernels.consensus import consensus
from fastsaddle.kernels.distance import distance
from fastsaddle.kernels.op import use_backend
from tests.kernels.test_ops import CASES, RUNNABLE

AGENTS = 5
# within a tile, across tiles, and across a block of them, with ends that are no whole tile
COLUMNS = (32, 1024, 5 * 1024 + 96, 16 * 1024, 33 * 1024 + 160)


@pytest.mark.parametrize("backend", [*RUNNABLE, "reference"])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("first", range(AGENTS))
@pytest.mark.parametrize("count", [1, 2, AGENTS])
def test_bits_are_those_of_consensus_for_any_of_its_rows(
    backend: str, columns: int, first: int, count: int, seed: int
) -> None:
    device = CASES.get(backend, ("cpu",))[0]
    if backend in consensus.unavailable(device):
        pytest.skip(consensus.unavailable(device)[backend])
    generator = torch.Generator().manual_seed(seed)
    # numbers apart, so that the order of sums shows
    scale = 10.0 ** torch.randint(-3, 4, (AGENTS, columns), generator=generator)
    x = (torch.randn(AGENTS, columns, generator=generator) * scale).to(device)
    mean = torch.empty(columns, device=device)
    of_all = torch.empty(AGENTS, dtype=torch.float64, device=device)
    rows = x[first : first + count]
    found = torch.empty(len(rows), dtype=torch.float64, device=device)
    with use_backend(backend):
        consensus(x, mean, of_all)
        distance(rows, mean, found)
        torch.testing.assert_close(found, of_all[first : first + count], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_bits_do_not_depend_on_threads(backend: str, seed: int) -> None:
    if backend in distance.unavailable("cpu"):
        pytest.skip(distance.unavailable("cpu")[backend])
    generator = torch.Generator().manual_seed(seed)
    x, mean = torch.randn(1, 200_000, generator=generator), torch.zeros(200_000)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            squared = torch.empty(1, dtype=torch.float64)
            with use_backend(backend):
                distance(x, mean, squared)
            found.append(squared)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
