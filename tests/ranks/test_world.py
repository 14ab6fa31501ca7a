"""What rank 0 does for all: the others hear how it went, and go on together."""

from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks.thread_transport import run_in_threads
from fastsaddle.ranks.transposition import Transposition
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run.evaluation import Evaluation, evaluate
from fastsaddle.sim.run.world import ElsewhereError, Stopping, World


def test_the_first_alone_works_and_all_know_whether_it_failed() -> None:
    def work(transport: Any) -> tuple[Any, ...]:
        world, done = World(transport, 5), []

        def fails() -> None:
            raise ValueError("not free")

        try:
            world.first(fails)
        except (ValueError, ElsewhereError) as error:
            done.append((type(error), str(error)))
        # nobody has left: the next work is the first one's again
        return (*done, world.first(lambda: 7), world.share(world.is_first))

    found = run_in_threads(3, work, timeout=20)
    assert found[0] == ((ValueError, "not free"), 7, True)
    assert found[1:] == [((ElsewhereError, "not free"), None, True)] * 2


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_takes_the_mean_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = torch.randn(60, 12), torch.randint(0, 4, (60,))
    data = Dataset("random", tuple("abcd"), inputs[:30], labels[:30], inputs[30:], labels[30:])
    means: list[int] = []
    mean = Transposition.mean

    def counted(here: Transposition, x: torch.Tensor) -> torch.Tensor:
        means.append(here.placement.rank)
        return mean(here, x)

    monkeypatch.setattr(Transposition, "mean", counted)
    module, rows = nn.Linear(12, 4), torch.randn(5, 128)

    def evaluated(agents: Any, world: World | None) -> Evaluation:
        stack = fs.AgentStack(module, agents, seed=seed)
        first = 0 if world is None else world.agents.start
        stack.x.add_(rows[first : first + stack.agents, : stack.layout.stride])
        return evaluate(stack, data, True, world)

    def work(transport: Any) -> Evaluation:
        world = World(transport, 5)
        return evaluated(world.placement, world)

    whole = evaluated(5, None)
    assert run_in_threads(3, work, timeout=20) == [whole] * 3
    assert sorted(means) == [0, 1, 2] and whole.consensus_distance > 0


def test_what_a_stop_waits_for_is_told() -> None:
    """All processes look at the same steps, and not after each: who asks learns which comes next."""
    said = []

    class Alone:
        def first_signal(self, received: int, interval: int) -> tuple[int, int]:
            said.append(asked.awaited(100))
            return received, 12

    received = 0
    world: Any = Alone()
    asked = Stopping(world, 40, lambda: received)
    assert asked.awaited(100) == "step 40, the next at which all processes look"
    assert not asked.is_stopped(40)
    assert said == ["the next step at which all processes look"]
    received = 15
    assert not asked.is_stopped(41)
    assert asked.awaited(100) == "step 52, the next at which all processes look"
    assert asked.awaited(50) == "step 50, the next at which all processes look"
    assert asked.is_stopped(52) and asked.found == 15
