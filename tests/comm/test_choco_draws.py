"""Random bits of messages: by seed, group, round and agent, and by nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.compressors import RandomK, StochasticQuantizer
from tests.comm.test_choco_state import compressed, each
from tests.optimizers.test_optimizer_state import equal, step, values

pytestmark = pytest.mark.usefixtures("one_thread")


@each
@pytest.mark.parametrize("kind", ["8 bits", "2 bits", "random-k"])
def test_equal_seeds_draw_equal_bits(name: str, kind: str, seed: int) -> None:
    runs = [compressed(name, seed, kind, seed=s) for s in (7, 7, 8, 2**63 - 1)]
    for optimizer in runs:
        torch.manual_seed(id(optimizer) % 2**31)
        drawn = torch.random.get_rng_state()
        step(optimizer, 2)
        assert torch.equal(torch.random.get_rng_state(), drawn)
    assert equal(values(runs[0]), values(runs[1]))
    hats = [optimizer.flat_state["x_hat"] for optimizer in runs[1:]]
    assert not torch.equal(hats[0], hats[1]) and not torch.equal(hats[1], hats[2])


def test_seeds_of_numpy(seed: int) -> None:
    for given in (np.uint32(seed), np.int64(2**62 + seed)):
        runs = [compressed("qgm", 3, seed=s) for s in (given, int(given))]
        for optimizer in runs:
            step(optimizer, 2)
        assert equal(values(runs[0]), values(runs[1]))


@pytest.mark.parametrize("compressor", [StochasticQuantizer(2), RandomK(0.3)], ids=str)
def test_groups_agents_and_rounds_draw_apart(compressor: Any, seed: int) -> None:
    """Twice the same model with the same gradient, in two groups and for all agents."""
    draw = torch.Generator().manual_seed(seed)
    value = torch.randn(1, 300, generator=draw).expand(4, 300)
    pair = [nn.Parameter(value.clone()) for _ in range(2)]
    given = [{"params": [p]} for p in pair]
    optimizer = fs.DSGD(given, lr=0.0, topology="ring", compressor=compressor, consensus_step=0.0)
    optimizer.step()
    first, second = (optimizer.state[p]["x_hat"].clone() for p in pair)
    # at a consensus step of zero models stay, and copies that are cleared are drawn anew
    optimizer.flat_state["x_hat"].zero_()
    optimizer.step()
    assert torch.equal(pair[0], value) and not torch.equal(first, optimizer.state[pair[0]]["x_hat"])
    drawn = [*first, *second]
    for one in range(8):
        for other in range(one):
            assert (drawn[one] != drawn[other]).float().mean() > 0.1
