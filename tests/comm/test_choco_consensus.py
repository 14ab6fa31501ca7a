"""Whatever is sent: the mean of agents is that of uncompressed gossip, and agents that only talk agree at last."""

import importlib
import pkgutil
from itertools import pairwise
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Compressor, RandomK, Sign, StochasticQuantizer, TopK
from tests.comm.test_choco import each_order
from tests.comm.test_choco_laws import FIVE, STAR
from tests.optimizers.test_properties import Run, problem_of

pytestmark = pytest.mark.usefixtures("one_thread")
COMPRESSORS: list[Compressor] = [
    example
    for found in pkgutil.iter_modules(fs.compressors.__path__)
    for example in getattr(
        importlib.import_module(f"fastsaddle.compressors.{found.name}"), "EXAMPLES", ()
    )
]


@each_order
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
def test_the_mean_goes_where_local_steps_go(compressor: Compressor, order: Any, seed: int) -> None:
    """After every step, against agents that never talk and start it from the same models and momentum."""
    problem = problem_of(5, seed)
    loners = fs.topology.from_matrix(torch.eye(5), allow_disconnected=True)
    for number, name in enumerate(FIVE):
        choco = fs.Choco(compressor, order, running_sum=number % 2 == 1)
        run = Run(name, STAR, problem, compressor=choco, consensus_step=0.3, seed=seed)
        apart = Run(name, loners, problem)
        mixed = local = torch.zeros(1)
        for _ in range(3):
            apart.optimizer.rows.x.copy_(run.optimizer.rows.x)
            for key, value in apart.optimizer.flat_state.items():
                value.copy_(run.optimizer.flat_state[key])
            mixed, local = run.after(1).double(), apart.after(1).double()
            copies = run.optimizer.flat_state.get("x_hat", torch.zeros(1))
            size = 1 + float(copies.abs().max())
            assert (mixed.mean(0) - local.mean(0)).abs().max() <= 2e-6 * size
        assert (mixed - local).abs().max() > 1e-3
        assert bool(run.optimizer.squares[:, 0].all()) == ("x_hat" in run.optimizer.flat_state)


# compressor, consensus step, rounds
AVERAGING = {
    "2 bits": (StochasticQuantizer(2, biased=True), 0.1, 160),
    "2 bits l2": (StochasticQuantizer(2, bucket=None, norm="l2", biased=True), 0.1, 200),
    "8 bits": (StochasticQuantizer(8), 1.0, 40),
    "sign": (Sign(), 0.1, 160),
    "top-k": (TopK(0.1), 0.1, 160),
    "random-k": (RandomK(0.1), 0.05, 300),
}


def distances(choco: fs.Choco, gamma: float, rounds: int, seed: int) -> list[float]:
    """To the mean of where agents started, before, during and after rounds at rate zero."""
    draw = torch.Generator().manual_seed(seed)
    p = torch.nn.Parameter(torch.randn(6, 3, 33, generator=draw))
    mean = p.detach().double().mean(0)
    optimizer = fs.DSGD(
        [p], lr=0.0, topology="ring", compressor=choco, consensus_step=gamma, seed=seed
    )
    found = [float((p.detach().double() - mean).norm())]
    for _ in range(4):
        for _ in range(rounds // 4):
            optimizer.step()
        found.append(float((p.detach().double() - mean).norm()))
    return found


@each_order
@pytest.mark.parametrize("case", AVERAGING)
def test_averaging_reaches_consensus(case: str, order: Any, seed: int) -> None:
    compressor, gamma, rounds = AVERAGING[case]
    found = distances(fs.Choco(compressor, order), gamma, rounds, seed)
    assert all(later < 0.9 * sooner for sooner, later in pairwise(found))
    assert found[-1] < 0.05 * found[0]


def test_two_bits_converge_only_biased(seed: int) -> None:
    biased, unbiased = (fs.Choco(StochasticQuantizer(2, biased=b)) for b in (True, False))
    assert distances(biased, 0.2, 80, seed)[-1] < 0.01 * distances(biased, 0.2, 0, seed)[0]
    assert distances(unbiased, 0.2, 80, seed)[-1] > 3 * distances(unbiased, 0.2, 0, seed)[0]
