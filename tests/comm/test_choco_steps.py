"""Compressors that choose, one step at a time: from equal states a float64 oracle makes the same choices."""

from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.compressors import Compressor, Sign, StochasticQuantizer, TopK
from tests.comm.test_choco import DIM, DROP, SIZES, STEPS, Pair, each_graph, each_order, tensorwise
from tests.optimizers.test_trajectories import run

pytestmark = pytest.mark.usefixtures("one_thread")


def sign(t: torch.Tensor) -> torch.Tensor:
    return t.abs().mean(1, keepdim=True) * torch.where(t < 0, -1.0, 1.0).double()


def top_k(t: torch.Tensor) -> torch.Tensor:
    """The largest three tenths of one tensor."""
    kept = t.abs().topk(max(1, 3 * t.shape[1] // 10), dim=1).indices
    return torch.zeros_like(t).scatter(1, kept, t.gather(1, kept))


def tied(t: torch.Tensor, k: int | None) -> torch.Tensor:
    """Columns of one tensor where float32 may choose otherwise than float64: bool `[elements]`."""
    size = t.abs()
    if k is None:
        return (size < 1e-5).any(0)
    order = size.sort(dim=1, descending=True).values
    least, next_ = order[:, k - 1 : k], order[:, k : k + 1] if k < t.shape[1] else -torch.ones(1, 1)
    return ((least - next_ < 1e-5) & ((size - least).abs() < 2e-5)).any(0)


@each_order
@each_graph
@pytest.mark.parametrize("name", ["dsgd", "dsgdm-nesterov", "qgm-mu", "dsaddle", "qsaddle"])
@pytest.mark.parametrize("compressor", [Sign(), TopK(0.3)], ids=["sign", "top-k"])
def test_choices_step_by_step(
    compressor: Compressor, name: str, graph: str, order: Any, seed: int
) -> None:
    """From equal states, and without the columns where a rounding could decide."""
    signs = isinstance(compressor, Sign)
    Q = tensorwise(sign if signs else top_k)
    pair = Pair(name, graph, fs.Choco(compressor, order), Q, seed)
    compared = 0
    for step in range(STEPS):
        pair.drop() if step == DROP else None
        pair.follow()
        pair.step()
        parts = pair.oracle.t.split(SIZES, 1)
        ties = [tied(part, None if signs else max(1, 3 * part.shape[1] // 10)) for part in parts]
        sure = ~torch.cat(ties)
        pair.compare(None if sure.all() else sure)
        compared += int(sure.sum())
        sent, lost = pair.optimizer.squares.T
        least = min(compressor.delta(size) for size in SIZES)
        assert (lost <= (1 - least) * sent * (1 + 1e-5)).all()
    assert compared > 0.95 * STEPS * DIM


@each_order
@each_graph
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["dsgdm", "qgm-mu", "qsaddle-nesterov"])
def test_quantized_messages_step_by_step(
    name: str, bits: Any, graph: str, order: Any, seed: int
) -> None:
    """Given the messages that were sent, all else follows; and these are within one level of what they stand for."""
    pair = Pair(name, graph, fs.Choco(StochasticQuantizer(bits), order), torch.clone, seed)
    for _ in range(STEPS // 2):
        pair.follow()
        before = pair.state("x_hat")
        run(pair.optimizer, pair.problem, pair.parameters)
        sent = pair.state("x_hat") - before
        pair.oracle.Q = lambda _, sent=sent: sent
        pair.oracle.step(pair.eta, pair.decay, pair.rho)
        pair.compare()
        levels = 2 ** (bits - 1) - 1
        for q, t in zip(sent.split(SIZES, 1), pair.oracle.t.split(SIZES, 1), strict=True):
            level = t.abs().amax(1, keepdim=True) / levels
            assert ((q - t).abs() <= level + 1e-5).all()
            assert ((q / level.clamp(min=1e-9)).round() * level - q).abs().max() <= 1e-4
