"""Parameters that require no gradient stand still, from the start or since they were frozen."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.test_every_optimizer import METHODS, NEEDS, each

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = ((3, 5), (17,), (2, 2), ())


def drawn(seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *shape, generator=draw) for shape in SHAPES]


def made(name: str, p: list[nn.Parameter], **options: Any) -> Any:
    groups = [{"params": p[:2]}, {"params": p[2:], "lr": 0.02}]
    own = NEEDS.get(name, {"topology": "ring"})
    return METHODS[name](groups, **{"lr": 0.05, "weight_decay": 0.1, **own, **options})


def parameters(values: list[torch.Tensor], frozen: tuple[int, ...] = ()) -> list[nn.Parameter]:
    return [nn.Parameter(v.clone(), requires_grad=k not in frozen) for k, v in enumerate(values)]


def closure_of(optimizer: Any, p: list[nn.Parameter]) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        pulls = [(q.reshape(4, -1) - torch.arange(4.0)[:, None]).cosh().log().sum() for q in p]
        loss = torch.stack(pulls).sum()
        if loss.requires_grad:
            loss.backward()
        return loss

    return closure


def step(optimizer: Any, p: list[nn.Parameter], times: int = 1) -> None:
    for _ in range(times):
        optimizer.step(closure_of(optimizer, p))


COMPRESSORS = {
    "plain": None,
    "8 bits": fs.compressors.StochasticQuantizer(8),
    "top-k": fs.compressors.TopK(0.5),
}


@each
@pytest.mark.parametrize("way", COMPRESSORS)
def test_the_others_step_as_if_alone(name: str, way: str, seed: int) -> None:
    options: dict[str, Any] = {}
    if COMPRESSORS[way] is not None:
        options = {"compressor": COMPRESSORS[way], "consensus_step": 0.3}
    values = drawn(seed)
    p, q = parameters(values, frozen=(0, 3)), parameters(values)
    try:
        optimizer = made(name, p, **options)
    except (TypeError, ValueError):
        pytest.skip(f"{name} takes no compressor")
    groups = [{"params": [q[1]]}, {"params": [q[2]], "lr": 0.02}]
    alone = METHODS[name](
        groups,
        **{"lr": 0.05, "weight_decay": 0.1, **NEEDS.get(name, {"topology": "ring"}), **options},
    )
    step(optimizer, p, 5)
    step(alone, q[1:3], 5)
    assert torch.equal(p[0], values[0]) and torch.equal(p[3], values[3])
    assert torch.equal(p[1], q[1]) and torch.equal(p[2], q[2])
    assert optimizer.bytes_sent == alone.bytes_sent
    assert p[0] not in optimizer.state and p[0].grad is None


@each
def test_frozen_for_a_while(name: str, seed: int) -> None:
    p = parameters(drawn(seed))
    optimizer = made(name, p)
    step(optimizer, p, 3)
    p[1].requires_grad_(False)
    # the steps done are everybody's, and the rate before is its group's
    shared = ("step", "previous_lr")
    held = copy.deepcopy({k: v for k, v in optimizer.state[p[1]].items() if k not in shared})
    kept, others = p[1].detach().clone(), [q.detach().clone() for q in (p[0], *p[2:])]
    step(optimizer, p, 3)
    assert torch.equal(p[1], kept)
    assert all(not torch.equal(q, v) for q, v in zip((p[0], *p[2:]), others, strict=True))
    now = optimizer.state[p[1]]
    assert all(torch.equal(now[k], v) for k, v in held.items())
    # a checkpoint of a model with frozen parameters holds their state too
    saved = copy.deepcopy(optimizer.state_dict())
    other = made(name, parameters([q.detach() for q in p], frozen=(1,)))
    other.load_state_dict(saved)
    p[1].requires_grad_(True)
    mine = [q for group in other.param_groups for q in group["params"]]
    mine[1].requires_grad_(True)
    step(optimizer, p, 3)
    step(other, mine, 3)
    assert not torch.equal(p[1], kept)
    assert all(torch.equal(a, b) for a, b in zip(p, mine, strict=True))


def test_as_sgd_does(seed: int) -> None:
    """Momentum that waits goes on where it was."""
    values = drawn(seed)
    p, q = parameters(values), parameters(values)
    optimizer = fs.DSGDm(p, lr=0.05, momentum=0.9, weight_decay=0.1)
    plain = torch.optim.SGD(q, lr=0.05, momentum=0.9, weight_decay=0.1)
    for frozen in (False, True, False):
        for r in (p[2], q[2]):
            r.requires_grad_(not frozen)
            r.grad = None
        step(optimizer, p, 3)
        for _ in range(3):
            plain.step(closure_of(plain, q))
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(p, q, strict=True))


@each
def test_all_frozen(name: str, seed: int) -> None:
    values = drawn(seed)
    p = parameters(values, frozen=(0, 1, 2, 3))
    optimizer = made(name, p)
    step(optimizer, p, 4)
    assert all(torch.equal(a, b) for a, b in zip(p, values, strict=True))
    for q in p:
        q.requires_grad_(True)
    step(optimizer, p, 2)
    assert all(not torch.equal(a, b) for a, b in zip(p, values, strict=True))


def test_frozen_parameters_of_another_kind_are_left_alone() -> None:
    """As a quantized base model below trained adapters."""
    base = nn.Parameter(torch.arange(6, dtype=torch.uint8).reshape(2, 3), requires_grad=False)
    half = nn.Parameter(torch.ones(3, dtype=torch.float16), requires_grad=False)
    adapter = nn.Parameter(torch.ones(4))
    optimizer = fs.QGM([base, half, adapter], lr=0.1)
    (adapter * 2).sum().backward()
    at = base.data_ptr()
    optimizer.step()
    assert base.data_ptr() == at and half.dtype == torch.float16
    assert torch.allclose(adapter, torch.full((4,), 0.8))


def test_exchanged_in_a_group(seed: int) -> None:
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = fs.DSGDm([p], lr=0.1, momentum=0.0)
    optimizer.param_groups[0]["params"][0] = q
    for _ in range(3):
        optimizer.zero_grad()
        q.sum().backward()
        optimizer.step()
    assert q.item() == pytest.approx(0.7) and p.item() == 1.0
    saved = optimizer.state_dict()
    assert set(saved["state"]) == {0}
    # appended and removed
    r = nn.Parameter(torch.ones(2))
    optimizer.param_groups[0]["params"].append(r)
    r.grad = torch.ones(2)
    optimizer.step()
    assert torch.allclose(r, torch.full((2,), 0.9))
    del optimizer.param_groups[0]["params"][0]
    assert set(optimizer.state_dict()["state"]) == {0} and q not in optimizer.state
