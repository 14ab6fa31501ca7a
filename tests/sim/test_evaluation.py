"""Evaluations: what they count, on any number of threads, at any stack, and beside a busy process."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run import initial_models
from fastsaddle.sim.run.evaluation import Evaluation, evaluate
from fastsaddle.sim.run.free_processors import are_free

CORES = os.cpu_count() or 1


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def busy() -> Iterator[None]:
    """A process for each core that never waits."""
    command = [sys.executable, "-c", "while True: pass"]
    neighbors = [subprocess.Popen(command) for _ in range(CORES)]
    yield
    for neighbor in neighbors:
        neighbor.kill()
        neighbor.wait()


def images(seed: int, shape: tuple[int, ...], tested: int) -> Dataset:
    torch.manual_seed(seed)
    inputs, labels = torch.randn(tested + 50, *shape), torch.randint(0, 4, (tested + 50,))
    parts = (inputs[:50], labels[:50], inputs[50:], labels[50:])
    return Dataset("random", tuple("abcd"), *parts)


def convolution() -> nn.Module:
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(75, 4)
    return nn.Sequential(*layers)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(49, 9), nn.ReLU(), nn.Linear(9, 4))


def evaluated(stack: fs.AgentStack, data: Dataset, one_by_one: bool, threads: int) -> Evaluation:
    torch.set_num_threads(threads)
    found = evaluate(stack, data, one_by_one)
    assert torch.get_num_threads() == threads and stack.training
    return found


@pytest.mark.parametrize("module", [convolution, perceptron])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_no_bit_depends_on_the_threads(module: object, one_by_one: bool, seed: int) -> None:
    data = images(seed, (1, 7, 7), 230)
    stack = fs.AgentStack(module(), 19, init="independent", seed=seed)  # type: ignore[operator]
    stack.x.add_(torch.randn_like(stack.x), alpha=0.1)
    found = [evaluated(stack, data, one_by_one, threads) for threads in (1, 2, 3, 30)]
    assert all(other == found[0] for other in found[1:])


def test_it_counts_every_agent_and_every_sample(seed: int) -> None:
    data = images(seed, (1, 7, 7), 317)
    stack = fs.AgentStack(perceptron(), 21, init="independent", seed=seed)
    with torch.no_grad():
        outputs = [stack.agent(i)(data.test_inputs) for i in range(21)]
        mean = stack.consensus()(data.test_inputs)
    shares = [(o.argmax(-1) == data.test_labels).double().mean().item() for o in outputs]
    for one_by_one in (True, False):
        found = evaluated(stack, data, one_by_one, 2)
        assert found.mean_accuracy == pytest.approx(sum(shares) / 21)
        assert found.worst_accuracy == pytest.approx(min(shares))
        assert found.loss == pytest.approx(F.cross_entropy(mean, data.test_labels).item())


class Noisy(nn.Module):
    """Draws in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(49, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.layer(x.flatten(1)), 0.5, training=True)


def test_models_that_draw_follow_each_other(seed: int) -> None:
    data = images(seed, (1, 7, 7), 60)
    stack = fs.AgentStack(Noisy(), 5, init="independent", seed=seed)
    found = []
    for threads in (1, 3):
        torch.manual_seed(seed)
        found.append(evaluated(stack, data, True, threads))
    assert found[0] == found[1]


class Recurrent(nn.Module):
    """Cannot be mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.LSTM(7, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x)[0][:, -1])


def test_what_cannot_be_mapped_is_told_and_evaluated(seed: int) -> None:
    data = images(seed, (6, 7), 60)
    stack = fs.AgentStack(Recurrent(), 5, init="independent", seed=seed)
    with pytest.warns(RuntimeWarning, match="one by one, torch.vmap cannot map .*LSTM"):
        found = evaluated(stack, data, False, 2)
    assert found == evaluated(stack, data, True, 2)


def test_a_busy_machine_costs_no_processor_time(busy: None, seed: int) -> None:
    """Threads that met in every operation took 5 to 14 times the seconds of one."""
    data = images(seed, (1, 28, 28), 6000)
    network = initial_models.build("lenet5", (1, 28, 28), 4, seed=seed)
    stack = fs.AgentStack(network, 4)

    def seconds(threads: int) -> float:
        def used() -> float:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return usage.ru_utime + usage.ru_stime

        begin = used()
        evaluated(stack, data, True, threads)
        return used() - begin

    seconds(2)
    alone, both = (min(seconds(threads) for _ in range(3)) for threads in (1, 2))
    assert both <= 1.3 * alone


def test_busy_processors_are_seen(busy: None) -> None:
    assert not are_free(CORES + 1)
    assert not are_free(max(2, CORES))
