"""Agents side by side: the bits of one thread, whatever their number; errors, random networks, thread counts."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.engines._agent_threads import AgentThreads
from fastsaddle.sim.gradient_engine import GradientEngine


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def problem(seed: int, *further: nn.Module) -> tuple[fs.AgentStack, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(75, 3)
    stack = fs.AgentStack(nn.Sequential(*layers, *further), 7, init="independent", seed=seed)
    return stack, torch.randn(7, 5, 1, 7, 7), torch.randint(0, 3, (7, 5))


def test_the_bits_do_not_depend_on_the_threads(seed: int) -> None:
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        stack, inputs, targets = problem(seed)
        engine = GradientEngine(stack, F.cross_entropy, "threads")
        losses = [engine.gradients(inputs, targets) for _ in range(3)][-1]
        found.append((losses, stack.g.clone(), *stack.buffers.values()))
        assert torch.get_num_threads() == threads
        assert stack.buffers["1.num_batches_tracked"].tolist() == [3] * 7
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_fewer_agents_than_threads_follow_each_other(seed: int) -> None:
    torch.set_num_threads(9)
    stack, inputs, targets = problem(seed)
    # threads of an engine before may end meanwhile
    before = set(threading.enumerate())
    losses = GradientEngine(stack, F.cross_entropy, "threads").gradients(inputs, targets)
    assert set(threading.enumerate()) <= before
    expected = GradientEngine(stack, F.cross_entropy, "loop").gradients(inputs, targets)
    assert torch.equal(losses, expected)


def test_random_networks_follow_each_other(seed: int) -> None:
    found = []
    for engine in ("threads", "loop"):
        stack, inputs, targets = problem(seed, nn.Dropout(0.5))
        gradients = GradientEngine(stack, F.cross_entropy, engine)
        torch.manual_seed(seed)
        gradients.gradients(inputs, targets)
        found.append((stack.g.clone(), torch.get_rng_state(), *stack.buffers.values()))
        # at rest dropout draws nothing
        stack.eval()
        gradients.gradients(inputs, targets)
    assert all(map(torch.equal, *found))


def test_errors_come_after_all_have_ended_and_statistics_are_put_back(seed: int) -> None:
    stack, inputs, _ = problem(seed)
    before = {name: b.clone() for name, b in stack.buffers.items()}
    ended: list[int] = []

    def fails(outputs: torch.Tensor, agent: torch.Tensor) -> torch.Tensor:
        if agent == 3:
            raise KeyError("third")
        time.sleep(0.01)
        ended.append(int(agent))
        return outputs.sum()

    engine = GradientEngine(stack, fails, "threads")
    stack.rows.second_pass = True
    with pytest.raises(KeyError, match="third"):
        engine.gradients(inputs, torch.arange(7))
    count = len(ended)
    time.sleep(0.05)
    # agent 0 is asked first whether it draws numbers
    assert sorted(ended) == [0, 0, 1, 2, 4, 5, 6] and len(ended) == count
    assert all(torch.equal(before[name], b) for name, b in stack.buffers.items())


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_order_and_each_thread_is_alone(threads: int) -> None:
    def work(agent: int) -> tuple[int, int, str]:
        time.sleep(0.002 * (5 - agent))
        return agent, torch.get_num_threads(), threading.current_thread().name

    pool = AgentThreads(threads)
    found = pool.run(work, 5)
    assert [agent for agent, *_ in found] == list(range(5))
    assert {count for _, count, _ in found} == {1}
    assert len({name for *_, name in found}) <= threads
    assert torch.get_num_threads() == 2

    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]
