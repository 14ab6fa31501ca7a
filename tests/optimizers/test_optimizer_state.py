"""State that survives: checkpoints, copies, pickles, schedulers, and groups that come later."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import fastsaddle as fs
from fastsaddle.optimizer.shell import Optimizer

METHODS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "dsgd": (fs.DSGD, {}),
    "dsgdm": (fs.DSGDm, {"nesterov": True}),
    "qgm": (fs.QGM, {"qg_momentum": 0.7}),
    "dsaddle": (fs.DSADDLe, {"rho": 0.2}),
    "qsaddle": (fs.QSADDLe, {"rho": 0.2}),
}
pytestmark = pytest.mark.usefixtures("one_thread")
each = pytest.mark.parametrize("name", METHODS)
with_state = pytest.mark.parametrize("name", ["dsgdm", "qgm", "qsaddle"])


def make(name: str, seed: int, **options: Any) -> Optimizer:
    """Three agents on a ring, two groups of odd shapes."""
    draw = torch.Generator().manual_seed(seed)
    a, b, c = (nn.Parameter(torch.randn(3, *s, generator=draw)) for s in ((4, 5), (), (7,)))
    method, own = METHODS[name]
    groups = [{"params": [a, b]}, {"params": [c], "lr": 0.02}]
    return method(groups, topology="ring", **{"lr": 0.1, "weight_decay": 0.01, **own, **options})


def step(optimizer: Optimizer, times: int = 1) -> None:
    """Losses depend on the parameters alone, so equal states have equal futures."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        pulls = [
            (p - 0.1 * i).cosh().log().sum() + (p.roll(1, 0) * p).sin().sum()
            for i, p in enumerate(parameters(optimizer))
        ]
        loss = torch.stack(pulls).sum()
        loss.backward()
        return loss

    for _ in range(times):
        optimizer.step(closure)


def parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def values(optimizer: Optimizer) -> list[torch.Tensor]:
    state = [t for p in parameters(optimizer) for t in optimizer.state[p].values()]
    return [t.detach().clone() for t in (*parameters(optimizer), *state)]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@each
@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05)], ids=["float", "tensor"])
def test_checkpoint_goes_on_bit_for_bit(name: str, rate: float | torch.Tensor, seed: int) -> None:
    optimizer = make(name, seed, lr=rate)
    step(optimizer, 4)
    file = io.BytesIO()
    torch.save({"x": parameters(optimizer), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    fresh = make(name, seed + 1, lr=0.3, weight_decay=0.0)
    with torch.no_grad():
        for p, value in zip(parameters(fresh), loaded["x"], strict=True):
            p.copy_(value)
    fresh.load_state_dict(loaded["optimizer"])
    assert fresh.param_groups[0]["lr"] == rate and fresh.param_groups[1]["lr"] == 0.02
    step(optimizer, 5)
    step(fresh, 5)
    assert equal(values(optimizer), values(fresh))


@each
def test_state_dict_holds_tensors_and_nothing_stale(name: str, seed: int) -> None:
    optimizer = make(name, seed)
    step(optimizer)
    state = optimizer.state_dict()["state"]
    names = {"dsgdm": ["momentum_buffer"], "qgm": ["quasi_global"], "qsaddle": ["quasi_global"]}
    for index, p in enumerate(parameters(optimizer)):
        held = state.get(index, {})
        assert list(held) == names.get(name, [])
        assert all(t.shape == p.shape and t.any() for t in held.values())


@with_state
def test_flat_state_can_be_written(name: str, seed: int) -> None:
    one, other = make(name, seed), make(name, seed)
    step(one, 3)
    other.rows.x.copy_(one.rows.x)
    for key, value in other.flat_state.items():
        value.copy_(one.flat_state[key])
    step(one)
    step(other)
    assert equal(values(one), values(other))


@with_state
def test_unfitting_state_is_refused(name: str, seed: int) -> None:
    optimizer = make(name, seed)
    step(optimizer, 2)
    before, groups = values(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    wrong = copy.deepcopy(optimizer.state_dict())
    wrong["param_groups"][0]["lr"] = 7.0
    key = next(iter(wrong["state"][2]))
    shaped, fewer, joined = (copy.deepcopy(wrong) for _ in range(3))
    shaped["state"][2][key] = torch.randn(3, 1)
    fewer["param_groups"][1]["params"] = []
    joined["param_groups"] = joined["param_groups"][:1]
    for bad, message in (
        (shaped, r"state .* of parameter 2 must have shape \(3, 7\), got \(3, 1\)"),
        (fewer, "size of optimizer's group"),
        (joined, "different number of parameter groups"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
        assert equal(values(optimizer), before)
        assert optimizer.state_dict()["param_groups"] == groups


def test_state_of_torch_sgd_is_taken_over(seed: int) -> None:
    optimizer = make("dsgdm", seed, nesterov=False, momentum=0.9)
    twins = [nn.Parameter(p.detach().clone()) for p in parameters(optimizer)]
    groups = [{"params": twins[:2]}, {"params": twins[2:], "lr": 0.02}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for p in twins:
        p.grad = torch.randn_like(p)
    sgd.step()
    saved = sgd.state_dict()
    del saved["param_groups"][0]["maximize"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["maximize"] is False
    for p, twin in zip(parameters(optimizer), twins, strict=True):
        assert torch.equal(
            optimizer.state[p]["momentum_buffer"], sgd.state[twin]["momentum_buffer"]
        )


@each
@pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_step_like_the_original(name: str, how: Callable[[Any], Any], seed: int) -> None:
    optimizer = make(name, seed, nonfinite="skip", backend="native", consensus_step=0.6)
    step(optimizer, 2)
    before = values(optimizer)
    twin = how(optimizer)
    assert type(twin) is type(optimizer) and twin.bytes_sent == optimizer.bytes_sent
    assert (twin.nonfinite, twin.backend) == ("skip", "native")
    step(twin, 2)
    assert equal(values(optimizer), before)
    step(optimizer, 2)
    assert equal(values(optimizer), values(twin))


@each
def test_copied_together_with_its_model(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(4, 3)
    method, options = METHODS[name]
    optimizer = method(model.parameters(), lr=0.1, **options)
    step(optimizer)
    for model_2, optimizer_2 in (
        copy.deepcopy((model, optimizer)),
        pickle.loads(pickle.dumps((model, optimizer))),
    ):
        assert parameters(optimizer_2)[0] is model_2.weight
        step(optimizer_2)
        assert not torch.equal(model_2.weight, model.weight)
        x = torch.randn(2, 4)
        assert torch.equal(model_2(x), x @ parameters(optimizer_2)[0].T + model_2.bias)


SCHEDULES: dict[str, tuple[Callable[..., Any], Callable[[int], float]]] = {
    "step": (lambda o: lr_scheduler.StepLR(o, 2, 0.1), lambda t: 0.1 * 0.1 ** (t // 2)),
    "warm-up": (lambda o: lr_scheduler.LambdaLR(o, lambda t: t / 4), lambda t: 0.1 * t / 4),
}


@each
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers(name: str, schedule: str, seed: int) -> None:
    one, other = make(name, seed), make(name, seed)
    scheduler = SCHEDULES[schedule][0](one)
    rate = SCHEDULES[schedule][1]
    for t in range(6):
        other.param_groups[0]["lr"], other.param_groups[1]["lr"] = rate(t), 0.2 * rate(t)
        step(one)
        scheduler.step()
        step(other)
    for a, b in zip(values(one), values(other), strict=True):
        assert (a - b).abs().max() < 1e-5
    assert (values(one)[0] - values(make(name, seed))[0]).abs().max() > 1e-2


@with_state
def test_one_cycle_moves_momentum_too(name: str, seed: int) -> None:
    one, other = make(name, seed), make(name, seed)
    scheduler = lr_scheduler.OneCycleLR(one, max_lr=0.1, total_steps=6)
    momenta = set()
    for _ in range(6):
        for group, read in zip(other.param_groups, one.param_groups, strict=True):
            group["lr"], group["momentum"] = read["lr"], read["momentum"]
        momenta.add(one.param_groups[0]["momentum"])
        step(one)
        scheduler.step() if scheduler.last_epoch < 5 else None
        step(other)
    assert len(momenta) > 2 and equal(values(one), values(other))


@each
@pytest.mark.parametrize("steps", [0, 3])
def test_groups_may_come_later(name: str, steps: int, seed: int) -> None:
    """Agents that never talk and gradients apart: a late group starts like a new optimizer of its own."""
    method, options = METHODS[name]
    options = {**options, "weight_decay": 0.01, "topology": "ring"} | (
        {"rho": 0.0} if "rho" in options else {}
    )
    draw = torch.Generator().manual_seed(seed)
    early, late = (torch.randn(3, k, generator=draw) for k in (33, 5))

    def pair(value: torch.Tensor) -> tuple[nn.Parameter, nn.Parameter]:
        return nn.Parameter(value.clone()), nn.Parameter(value.clone())

    (a, a_alone), (b, b_alone) = pair(early), pair(late)
    joint = method([a], lr=0.1, **options)
    first, second = (
        method([a_alone], lr=0.1, **options),
        method([b_alone], lr=0.03, **options),
    )
    for optimizer in (joint, first):
        step_apart(optimizer, steps)
    joint.add_param_group({"params": [b], "lr": 0.03})
    for optimizer in (joint, first, second):
        step_apart(optimizer, 3)
    assert torch.equal(a, a_alone) and torch.equal(b, b_alone)
    assert joint.bytes_sent == first.bytes_sent + second.bytes_sent


def step_apart(optimizer: Optimizer, times: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([p.cosh().log().sum() for p in parameters(optimizer)]).sum()
        loss.backward()
        return loss

    for _ in range(times):
        optimizer.step(closure)


@each
def test_bad_late_groups_change_nothing(name: str, seed: int) -> None:
    optimizer, twin = make(name, seed), make(name, seed)
    step(optimizer)
    step(twin)
    for group, message in (
        ({"params": [nn.Parameter(torch.randn(2, 4))]}, "stacked"),
        ({"params": [nn.Parameter(torch.randn(3, 4).double())]}, "float32"),
        ({"params": [nn.Parameter(torch.randn(3, 4))], "lr": -1.0}, "lr must be >= 0"),
        ({"params": [nn.Parameter(torch.randn(3, 4))], "lr": torch.ones(2)}, "lr must be one"),
        ({"params": [parameters(optimizer)[0]]}, "more than one parameter group"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == 2 and equal(values(optimizer), values(twin))
    step(optimizer)
    step(twin)
    assert equal(values(optimizer), values(twin))
