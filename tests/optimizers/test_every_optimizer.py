"""What every public optimizer keeps: checkpoints, copies, late groups, errors that change nothing, equal bits."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.rules import base as rules_base
from tests.optimizers.public_methods import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")
# what a method needs besides parameters and a rate, where that is not a ring
NEEDS: dict[str, dict[str, Any]] = {
    "D2": {"topology": "ring", "consensus_step": 0.5, "momentum": 0.9},
    "GradientTracking": {"topology": "ring", "momentum": 0.9},
    "RelaySGD": {"topology": "chain", "momentum": 0.9},
    **{name: {"agents": 4, "period": 3} for name in ("LocalSGD", "DPPF", "EASGD")},
}
# norms may differ in the last place between implementations: SAM, Adam's displacement and DPPF divide by them
WITH_NORMS = ("DSADDLe", "QSADDLe", "NSADDLe", "QGAdam", "DPPF")
each = pytest.mark.parametrize("name", METHODS)


def make(name: str, seed: int, **options: Any) -> Any:
    """Four agents, two groups of odd shapes."""
    draw = torch.Generator().manual_seed(seed)
    a, b, c = (nn.Parameter(torch.randn(4, *s, generator=draw)) for s in ((4, 5), (), (37,)))
    groups = [{"params": [a, b]}, {"params": [c], "lr": 0.01}]
    own = NEEDS.get(name, {"topology": "ring"})
    return METHODS[name](groups, **{"lr": 0.05, "weight_decay": 0.01, **own, **options})


def parameters(optimizer: Any) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def closure_of(optimizer: Any) -> Callable[[], torch.Tensor]:
    """Losses depend on the parameters alone, so equal states have equal futures."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        agents = torch.arange(4.0)
        pulls = [
            ((p.flatten(1) if p.dim() > 1 else p[:, None]) - 0.3 * agents[:, None]).cosh().log()
            for p in parameters(optimizer)
        ]
        loss = torch.stack([pull.sum() for pull in pulls]).sum()
        loss.backward()
        return loss

    return closure


def step(optimizer: Any, times: int = 1) -> None:
    for _ in range(times):
        optimizer.step(closure_of(optimizer))


def values(optimizer: Any) -> list[torch.Tensor]:
    state = [t for p in parameters(optimizer) for t in optimizer.state[p].values()]
    return [t.detach().clone() for t in (*parameters(optimizer), *state)]


def equal(one: Any, other: Any) -> bool:
    pairs = zip(values(one), values(other), strict=True)
    return one.bytes_sent == other.bytes_sent and all(torch.equal(a, b) for a, b in pairs)


@each
def test_checkpoint_goes_on_bit_for_bit(name: str, seed: int) -> None:
    optimizer, fresh = make(name, seed), make(name, seed + 1, lr=0.3)
    step(optimizer, 4)
    file = io.BytesIO()
    torch.save({"x": parameters(optimizer), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    with torch.no_grad():
        for p, value in zip(parameters(fresh), loaded["x"], strict=True):
            p.copy_(value)
    fresh.load_state_dict(loaded["optimizer"])
    fresh.bytes_sent = optimizer.bytes_sent
    step(optimizer, 5)
    step(fresh, 5)
    assert equal(optimizer, fresh)


@each
@pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_step_like_the_original(name: str, how: Callable[[Any], Any], seed: int) -> None:
    optimizer = make(name, seed, nonfinite="skip", backend="native")
    step(optimizer, 2)
    twin = how(optimizer)
    assert type(twin) is type(optimizer) and equal(optimizer, twin)
    step(twin, 3)
    assert not equal(optimizer, twin)
    step(optimizer, 3)
    assert equal(optimizer, twin)


@each
def test_backends_agree(name: str, seed: int) -> None:
    reference, native = make(name, seed, backend="reference"), make(name, seed, backend="native")
    for _ in range(6):
        step(reference)
        step(native)
        for a, b in zip(parameters(reference), parameters(native), strict=True):
            if name in WITH_NORMS:
                assert (a - b).abs().max() <= 1e-5
            else:
                assert torch.equal(a, b)
    assert not torch.equal(parameters(reference)[0], parameters(make(name, seed))[0])


@pytest.mark.parametrize(
    "name",
    ["D2", "GUT", "GradientTracking", "MomentumTracking", "QGAdam", "RelaySGD"],
)
def test_pieces_make_the_same_whole(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = make(name, seed), make(name, seed)
    step(whole, 5)
    # 32 columns of four agents: several pieces a group
    monkeypatch.setattr(rules_base, "PIECE", 4 * 4 * 32)
    step(cut, 5)
    assert equal(whole, cut)


@each
def test_nan_is_refused_before_anything_moves(name: str, seed: int) -> None:
    optimizer = make(name, seed)
    step(optimizer, 2)
    before = copy.deepcopy(optimizer)

    def spoiled() -> torch.Tensor:
        loss = closure_of(optimizer)()
        parameters(optimizer)[-1].grad[2, 3] = float("nan")
        return loss

    with pytest.raises(fs.NonFiniteGradientError, match=r"agents \[2\]"):
        optimizer.step(spoiled)
    assert equal(optimizer, before)
    step(optimizer)
    step(before)
    assert equal(optimizer, before)


@each
def test_skipped_agents_leave_others_finite(name: str, seed: int) -> None:
    optimizer = make(name, seed, nonfinite="skip")

    def spoiled() -> torch.Tensor:
        loss = closure_of(optimizer)()
        parameters(optimizer)[-1].grad[2, 3] = float("nan")
        return loss

    for _ in range(4):
        optimizer.step(spoiled)
    assert optimizer.skipped[2] > 0 and all(v.isfinite().all() for v in values(optimizer))


@each
def test_padding_stays_zero_on_a_stack(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(
        nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), 4, "independent"
    )
    x = stack.x
    own = NEEDS.get(name, {"topology": "ring"})
    optimizer = METHODS[name](stack.parameters(), lr=0.05, weight_decay=0.01, **own)
    inputs, before = torch.randn(4, 6, 3), x.clone()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (stack(inputs) - 1).square().mean((1, 2)).sum()
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    free = torch.ones(stack.layout.stride, dtype=torch.bool)
    for offset, shape in zip(stack.layout.offsets, stack.layout.shapes, strict=True):
        free[offset : offset + shape.numel()] = False
    assert stack.x is x and not torch.equal(x, before)
    for rows in (x, stack.g, *optimizer.flat_state.values()):
        assert free.any() and not rows[:, free].any()


@each
def test_groups_may_come_later(name: str, seed: int) -> None:
    optimizer = make(name, seed)
    step(optimizer, 2)
    late = nn.Parameter(torch.randn(4, 9))
    optimizer.add_param_group({"params": [late]})
    before = late.detach().clone()
    step(optimizer, 4)
    assert late.isfinite().all() and not torch.equal(late, before)


@each
def test_bad_rates_are_refused(name: str, seed: int) -> None:
    for option in ("lr", "weight_decay"):
        with pytest.raises(ValueError, match=f"{option} must be >= 0 and finite, got -1"):
            make(name, seed, **{option: -1.0})
