"""Batches: the same wherever one starts, complete in every epoch, unmoved by other agents."""

import numpy as np
import pytest
import torch

from fastsaddle.sim.data.batches import AgentBatches


def random_parts(seed: int, sizes: tuple[int, ...]) -> list[np.ndarray]:
    order = np.random.default_rng(seed).permutation(sum(sizes))
    return np.split(order, np.cumsum(sizes)[:-1])


def test_any_step_can_be_asked_first(seed: int) -> None:
    parts = random_parts(seed, (90, 3, 5000, 17))
    batches = AgentBatches(parts, 32, seed)
    in_order = [batches.at(step).clone() for step in range(300)]
    for step in np.random.default_rng(seed).permutation(300)[:40]:
        assert torch.equal(AgentBatches(parts, 32, seed).at(int(step)), in_order[step])
        assert torch.equal(batches.at(int(step)), in_order[step])
    assert in_order[0].shape == (4, 32)
    assert in_order[0].dtype == torch.int64


@pytest.mark.parametrize("batch_size", [1, 7, 32, 3000])
def test_every_epoch_has_every_sample_once(batch_size: int, seed: int) -> None:
    parts = random_parts(seed, (1, 3, 90, 4097))
    batches = AgentBatches(parts, batch_size, seed)
    steps = -(-9000 // batch_size)
    streams = torch.cat([batches.at(step) for step in range(steps)], dim=1).numpy()
    for part, stream in zip(parts, streams, strict=True):
        epochs = stream[: len(stream) // len(part) * len(part)].reshape(-1, len(part))
        assert len(epochs) >= 2
        assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.sort(part), (len(epochs), 1)))
        assert len(part) < 10 or not np.array_equal(epochs[0], epochs[1])


def test_other_agents_change_nothing(seed: int) -> None:
    parts = random_parts(seed, (40, 50, 60))
    few, many = AgentBatches(parts[:2], 16, seed), AgentBatches(parts, 16, seed)
    for step in (0, 1, 200):
        assert torch.equal(few.at(step), many.at(step)[:2])


def test_seed_and_agent_decide(seed: int) -> None:
    part = np.arange(500)
    one, other = AgentBatches([part, part], 64, seed), AgentBatches([part, part], 64, seed ^ 1)
    assert not torch.equal(one.at(0)[0], one.at(0)[1])
    assert not torch.equal(one.at(0), other.at(0))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"agents \[1\] have none"):
        AgentBatches([np.arange(3), np.arange(0)], 2, 0)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        AgentBatches([np.arange(3)], 0, 0)
