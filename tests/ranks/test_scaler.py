"""Steps that a GradScaler drives over processes: an overflow in one of them skips the step in all of them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = (1, 2)
MAKE: dict[str, Any] = {
    "QGM": partial(fs.QGM, lr=0.1, topology="ring"),
    "QSADDLe": partial(fs.QSADDLe, lr=0.1, topology="ring"),
    "MomentumSAM": partial(fs.QSADDLe, lr=0.1, topology="ring", sam=fs.MomentumSAM()),
    "LocalSGD": partial(fs.LocalSGD, lr=0.1, agents=3, period=2),
}
# step, pass and agent of an overflow: of the first process, and of the other
OVERFLOWS = {(1, 0, 0), (3, 0, 2), (4, 1, 1)}


def trained(name: str, start: torch.Tensor, first: int, **options: Any) -> torch.Tensor:
    p = nn.Parameter(start.clone())
    optimizer = MAKE[name]([p], **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    two = optimizer.passes == 2 and name != "MomentumSAM"
    if name == "MomentumSAM":
        optimizer.train()

    def backward(step: int, k: int) -> None:
        agents = torch.arange(first, first + len(p))
        loss = ((p - agents[:, None]) ** 2).sum(1)
        # not a choice between losses: the gradient of the one that is not taken would be 0 * inf
        factor = [torch.inf if (step, k, int(agent)) in OVERFLOWS else 1.0 for agent in agents]
        scaler.scale((loss * torch.tensor(factor)).sum()).backward()

    for step in range(6):
        backward(step, 0)
        if two:
            scaler.unscale_(optimizer)
            optimizer.perturb(zero_grad=True)
            scaler.update()
            backward(step, 1)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    optimizer.eval()
    return p.detach()


@pytest.mark.parametrize("name", MAKE)
def test_all_skip_where_one_overflows(name: str, seed: int) -> None:
    start = torch.randn(sum(COUNTS), 20, generator=torch.Generator().manual_seed(seed))
    whole = trained(name, start, 0)
    assert whole.isfinite().all() and not torch.equal(whole, start)

    def work(transport: Any) -> torch.Tensor:
        here = Placement(COUNTS, transport)
        part = slice(here.first_agent, here.first_agent + here.agents)
        return trained(name, start[part], part.start, placement=here)

    found = run_in_threads(len(COUNTS), work, timeout=10)
    assert all(isinstance(x, torch.Tensor) for x in found), found
    assert torch.equal(torch.cat(found), whole)  # type: ignore[arg-type]
