"""Running statistics of averaged models: those of their own activations, counted by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastsaddle as fs
from fastsaddle.sim.run.batch_statistics import has_statistics, reestimate

WIDTH = 5

pytestmark = pytest.mark.usefixtures("one_thread")


def one_norm(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, WIDTH), nn.BatchNorm1d(WIDTH))


def samples(seed: int, count: int) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.tensor(random.normal(1, 3, size=(count, 3)), dtype=torch.float32)


def watch(model: nn.Module) -> list[Tensor]:
    """A list that collects the batches which `model` is called with."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, batch: seen.append(batch[0].clone()))
    return seen


def activations(model: nn.Sequential, batch: Tensor) -> np.ndarray:
    """What the normalization sees, in float64."""
    linear = model[0]
    assert isinstance(linear, nn.Linear)
    weight, bias = (p.detach().double().numpy() for p in (linear.weight, linear.bias))
    return batch.double().numpy() @ weight.T + bias


def statistics(model: nn.Sequential) -> tuple[np.ndarray, np.ndarray]:
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()


@pytest.mark.parametrize(
    ("count", "batch_size", "limit", "sizes"),
    [
        (37, 10, 10_000, [9, 9, 9, 10]),
        (37, 37, 37, [37]),
        (37, 250, 37, [37]),
        (40, 10, 10_000, [10, 10, 10, 10]),
        (37, 10, 21, [7, 7, 7]),
    ],
)
def test_statistics_by_hand(
    count: int, batch_size: int, limit: int, sizes: list[int], seed: int
) -> None:
    model, inputs = one_norm(seed), samples(seed, count)
    model.train()
    model(5 * inputs)
    seen = watch(model)
    reestimate(model, inputs, batch_size, limit)
    assert sorted(map(len, seen)) == sizes
    rows = [tuple(row) for batch in seen for row in batch.tolist()]
    assert len(set(rows)) == sum(sizes) and set(rows) <= {tuple(row) for row in inputs.tolist()}
    assert rows != [tuple(row) for row in inputs.tolist()][: len(rows)], "a permutation is drawn"
    parts = [activations(model, batch) for batch in seen]
    mean, variance = statistics(model)
    expected = np.mean([p.mean(axis=0) for p in parts], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
    expected = np.mean([p.var(axis=0, ddof=1) for p in parts], axis=0)
    np.testing.assert_allclose(variance, expected, rtol=1e-4)


def test_averaged_statistics_are_wrong_and_these_are_right(seed: int) -> None:
    stack = fs.AgentStack(one_norm(seed), 3, init="independent", seed=seed)
    inputs = samples(seed, 1000)
    stack.train()
    for _ in range(100):
        stack(inputs.expand(3, *inputs.shape))
    consensus = stack.consensus()
    assert isinstance(consensus, nn.Sequential)
    own = activations(consensus, inputs)
    averaged = statistics(consensus)
    # the mean of linear functions is linear, so only the variance is wrong here
    np.testing.assert_allclose(averaged[0], own.mean(axis=0), atol=1e-2)
    assert np.all(averaged[1] > 1.02 * own.var(axis=0))
    reestimate(consensus, inputs, batch_size=500)
    mean, variance = statistics(consensus)
    np.testing.assert_allclose(mean, own.mean(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(variance, own.var(axis=0), rtol=2e-2)
    consensus.eval()
    outputs = consensus(inputs).detach()
    np.testing.assert_allclose(outputs.var(dim=0), np.ones(WIDTH), rtol=2e-2)


@pytest.mark.parametrize("training", [True, False])
def test_everything_else_stays(training: bool, seed: int) -> None:
    model = nn.Sequential(nn.Dropout(0.5), *one_norm(seed), nn.BatchNorm1d(WIDTH, momentum=0.3))
    model.train(training)
    inputs = samples(seed, 30)
    parameters = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    reestimate(model, inputs, 10)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training is training and model[-1].training is training
    assert [m.momentum for m in model if isinstance(m, nn.BatchNorm1d)] == [0.1, 0.3]
    for p, before in zip(model.parameters(), parameters, strict=True):
        assert torch.equal(p, before) and p.grad is None
    first = {name: b.clone() for name, b in model.named_buffers()}
    torch.rand(3)
    reestimate(model, inputs, 10)
    for name, b in model.named_buffers():
        assert torch.equal(b, first[name]), name


@pytest.mark.parametrize(
    "norm",
    [
        nn.Identity(),
        nn.GroupNorm(1, WIDTH),
        nn.BatchNorm1d(WIDTH, track_running_stats=False),
    ],
)
def test_nothing_is_done_without_statistics(norm: nn.Module, seed: int) -> None:
    model = nn.Sequential(nn.Linear(3, WIDTH), norm)
    seen = watch(model)
    assert not has_statistics(model)
    reestimate(model, samples(seed, 30))
    assert not seen
    assert has_statistics(nn.Sequential(model, nn.Sequential(nn.BatchNorm2d(2))))


def test_wrong_arguments(seed: int) -> None:
    model, inputs = one_norm(seed), samples(seed, 12)
    before = statistics(model)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        reestimate(model, inputs, batch_size=0)
    with pytest.raises(ValueError, match="samples must be at least 1, got -1"):
        reestimate(model, inputs, samples=-1)
    with pytest.raises(ValueError, match="inputs must be at least 1, got 0"):
        reestimate(model, inputs[:0])
    np.testing.assert_array_equal(statistics(model), before)
