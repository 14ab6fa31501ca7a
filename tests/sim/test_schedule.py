"""Learning rates over a run against torch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from fastsaddle.sim.run import schedule


def rates(kind: str, steps: int, make: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("steps", [7, 100, 1171])
def test_equals_torchs_schedulers(steps: int) -> None:
    def cosine(o: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        return lr_scheduler.CosineAnnealingLR(o, steps)

    def decays(o: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        return lr_scheduler.MultiStepLR(o, [round(0.3 * steps), round(0.6 * steps)], 0.2)

    for text, make in (("cosine", cosine), ("step:0.3:0.6", decays)):
        expected = rates(text, steps, make)
        found = [schedule.parse(text, steps, decay=0.2).factor(t) for t in range(steps)]
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert min(found) > 0


def test_published_decays_and_warmup() -> None:
    published = schedule.parse("step", 200, warmup=0.05)
    found = [published.factor(t) for t in (0, 4, 9, 10, 99, 100, 149, 150, 199)]
    assert found == pytest.approx([0.1, 0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [schedule.parse("constant", 9).factor(t) for t in range(9)] == [1.0] * 9


@pytest.mark.parametrize("text", ["linear", "cosine:3", "step:0.7:0.3", "step:0:0.5", "step:x"])
def test_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match="--schedule"):
        schedule.parse(text, 10)
