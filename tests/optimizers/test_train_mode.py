"""MomentumSAM without a closure: `train()` lets parameters stand at the perturbed models, `eval()` at the models."""

import copy
import pickle
import random
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.interrupted_steps import CASES, Work, composed, on_ring
from tests.optimizers.optimizer_snapshots import Snapshot, equal, leaves
from tests.optimizers.test_wrappers import PassingWrapper, Wrapper

pytestmark = pytest.mark.usefixtures("one_thread")
AHEAD = fs.gradients.SAM(0.3, sam=fs.MomentumSAM())
METHODS: dict[str, Any] = {
    "QSADDLe": on_ring(fs.QSADDLe, sam=fs.MomentumSAM(), rho=0.3),
    "adaptive, 8 bits": on_ring(
        fs.QSADDLe,
        sam=fs.MomentumSAM(),
        adaptive=True,
        compressor=fs.compressors.StochasticQuantizer(8),
    ),
    "local momentum": composed(fs.rules.Momentum("local"), gradient=AHEAD),
    "GradientTracking": composed(fs.rules.GradientTracking(momentum=0.9), gradient=AHEAD),
    "own average": lambda groups, **options: fs.Optimizer(
        groups,
        gradient=AHEAD,
        rule=fs.rules.Momentum("local"),
        communicator=fs.comm.Average(4, period=3),
        **options,
    ),
}
each = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in METHODS.items():
        monkeypatch.setitem(CASES, name, method)


def models(work: Work) -> Snapshot:
    """Where the models are, whatever the parameters hold."""
    return [*leaves([*work.optimizer.rows.parts(work.optimizer.rows.models())])]


def backward(work: Work) -> None:
    work.optimizer.zero_grad()
    work.loss().backward()


@pytest.mark.parametrize("wrapper", [None, Wrapper, PassingWrapper])
@each
def test_steps_without_a_closure(method: str, wrapper: Any, seed: int) -> None:
    """The bits of steps with one; between them parameters are where the next gradient is taken."""
    work, twin, draw = Work(method, seed), Work(method, seed), random.Random(seed)
    o = work.optimizer if wrapper is None else wrapper(work.optimizer)
    for _ in range(12):
        o.train()
        o.train()
        backward(work)
        o.step()
        assert o.perturbed
        twin.optimizer.step(twin.closure)
        assert equal(models(work), models(twin))
        if draw.random() < 0.5:
            assert not equal([*leaves(work.parameters)], [*leaves(twin.parameters)])
            o.eval()
            o.eval()
            assert equal(work.state(), twin.state()) and work.is_at_rest()


def test_a_closure_is_called_once_where_parameters_stand(seed: int) -> None:
    """Also one that adds to what was accumulated there."""
    work, twin = Work("QSADDLe", seed), Work("QSADDLe", seed)
    work.optimizer.train()
    for _ in range(3):
        work.optimizer.step(work.closure)
        twin.optimizer.step(twin.closure)
    backward(work)

    def closure() -> torch.Tensor:
        loss = work.loss()
        loss.backward()
        return loss

    work.optimizer.step(closure)
    work.optimizer.eval()
    twin.optimizer.step(lambda: (backward(twin), twin.loss().backward()))
    assert equal(work.state(), twin.state())


def test_a_new_optimizer_is_in_eval(seed: int) -> None:
    work = Work("QSADDLe", seed)
    before = work.state()
    work.closure()
    with pytest.raises(RuntimeError, match=r"QSADDLe with MomentumSAM .*call train\(\)"):
        work.optimizer.step()
    assert equal(work.state(), before)


@pytest.mark.parametrize("name", ["QGM", "QSADDLe full", "NGM", "GUT", "LocalSGD"])
def test_others_have_their_models_in_the_parameters(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "QSADDLe full", on_ring(fs.QSADDLe))
    work = Work(name, seed)
    before = work.state()
    work.optimizer.train()
    assert equal(work.state(), before) and not work.optimizer.perturbed
    work.optimizer.step(work.closure)
    after = work.state()
    work.optimizer.train(False)
    assert equal(work.state(), after)


def trained(method: str, seed: int) -> tuple[Work, Work]:
    """One in `train()`, and one in `eval()` with the same models."""
    work, twin = Work(method, seed), Work(method, seed)
    work.optimizer.train()
    for _ in range(4):
        backward(work)
        work.optimizer.step()
        twin.optimizer.step(twin.closure)
    return work, twin


def go_on(work: Work, twin: Work) -> None:
    for _ in range(3):
        backward(work)
        work.optimizer.step()
        twin.optimizer.step(twin.closure)
    assert work.optimizer.perturbed and equal(models(work), models(twin))
    work.optimizer.eval()
    assert equal(work.state(), twin.state())


@each
def test_saving_and_loading(method: str, seed: int) -> None:
    work, twin = trained(method, seed)
    saved = copy.deepcopy(work.optimizer.state_dict())
    assert equal([*leaves(saved)], [*leaves(copy.deepcopy(twin.optimizer.state_dict()))])
    # momentum changes, and where parameters stand with it
    for state in saved["state"].values():
        for name in state.keys() & {"quasi_global", "momentum_buffer"}:
            state[name] = torch.flip(state[name], (0,)) + 1
    for each in (work, twin):
        each.optimizer.load_state_dict(copy.deepcopy(saved))
    go_on(work, twin)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@each
def test_copies_hold_the_models(method: str, copied: Any, seed: int) -> None:
    work, twin = trained(method, seed)
    other = copied(work.optimizer)
    assert not other.perturbed
    parameters = [p for group in other.param_groups for p in group["params"]]
    assert equal([*leaves(parameters)], [*leaves(twin.parameters)])
    go_on(work, twin)


@each
def test_another_group(method: str, seed: int) -> None:
    work, twin = trained(method, seed)
    for each in (work, twin):
        new = nn.Parameter(torch.full((4, 3), 0.5))
        each.optimizer.add_param_group({"params": [new]})
        each.parameters.append(new)
        each.pulls.append(torch.zeros(()))
    go_on(work, twin)


def test_synchronizing(seed: int) -> None:
    work, twin = trained("own average", seed)
    for each in (work, twin):
        each.optimizer.synchronize()
    assert equal(models(work), models(twin))
    go_on(work, twin)


@each
def test_parameters_that_are_moved(method: str, seed: int) -> None:
    work, twin = trained(method, seed)
    for each in (work, twin):
        each.parameters[1].data = each.parameters[1].data.clone()
    go_on(work, twin)


def test_a_stack_gives_the_models(seed: int) -> None:
    torch.manual_seed(seed)
    stacks = [fs.AgentStack(nn.Linear(3, 2), 4, "independent", seed) for _ in range(2)]
    inputs = torch.randn(4, 5, 3)
    ahead, plain = (
        fs.QSADDLe(s.parameters(), lr=0.1, topology="ring", sam=fs.MomentumSAM(), rho=0.5)
        for s in stacks
    )

    def closure() -> torch.Tensor:
        plain.zero_grad()
        loss = stacks[1](inputs).square().sum()
        loss.backward()
        return loss

    ahead.train()
    for _ in range(3):
        ahead.zero_grad()
        stacks[0](inputs).square().sum().backward()
        ahead.step()
        plain.step(closure)
    assert not torch.equal(stacks[0].x, stacks[1].x)
    for of in (lambda s: s.consensus(), lambda s: s.agent(2)):
        for p, q in zip(*(of(s).parameters() for s in stacks), strict=True):
            assert torch.equal(p, q)
    saved = stacks[0].state_dict()
    assert equal([*leaves(saved)], [*leaves(stacks[1].state_dict())])
    with pytest.raises(RuntimeError, match=r"cannot be loaded while .*eval\(\)"):
        stacks[0].load_state_dict(saved)
    ahead.eval()
    stacks[0].load_state_dict(saved)
    assert torch.equal(stacks[0].x, stacks[1].x)


@pytest.mark.parametrize("how", ["gradient", "rate", "rho", "rule"])
def test_a_step_that_fails_leaves_parameters_where_they_stood(how: str, seed: int) -> None:
    work, twin = trained("QSADDLe", seed)
    before = [*leaves(work.parameters)], models(work)
    backward(work)
    group, finish = work.optimizer.param_groups[1], work.optimizer.communicator.finish
    held, error = dict(group), ValueError
    if how == "gradient":
        work.parameters[2].grad[1] = torch.nan
        error = fs.NonFiniteGradientError
    elif how == "rule":
        error = KeyError
        work.optimizer.communicator.finish = {}.__getitem__
        work.optimizer.rule.is_atomic = False
    else:
        group[{"rate": "lr"}.get(how, how)] = float("nan")
    with pytest.raises(error):
        work.optimizer.step()
    assert equal([*leaves(work.parameters)], before[0]) and equal(models(work), before[1])
    group.update(held)
    work.optimizer.communicator.finish = finish
    work.optimizer.rule.is_atomic = type(work.optimizer.rule).is_atomic
    go_on(work, twin)


def test_by_hand_or_by_mode(seed: int) -> None:
    work = Work("QSADDLe", seed)
    work.optimizer.step(work.closure)
    work.optimizer.perturb()
    with pytest.raises(RuntimeError, match=r"cannot be put into train\(\) while"):
        work.optimizer.train()
    work.optimizer.restore()
    work.optimizer.train()
    with pytest.raises(RuntimeError, match="perturbed already"):
        work.optimizer.perturb()
    work.optimizer.restore()
    assert work.is_at_rest()
    work.closure()
    with pytest.raises(RuntimeError, match=r"call train\(\)"):
        work.optimizer.step()


def halves(seed: int) -> tuple[list[nn.Parameter], Any]:
    draw = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.randn(4, 3, 5, generator=draw).bfloat16()) for _ in range(2)]
    return parameters, METHODS["QSADDLe"](parameters, lr=0.1)


def test_bfloat16_parameters(seed: int) -> None:
    """Masters that are saved are the models, too."""
    (p, ahead), (q, twin) = halves(seed), halves(seed)

    def backward(parameters: list[nn.Parameter], optimizer: Any) -> None:
        optimizer.zero_grad()
        torch.stack([p.float().cosh().log().sum() for p in parameters]).sum().backward()

    def go_on(parameters: list[nn.Parameter], optimizer: Any) -> None:
        for _ in range(3):
            backward(parameters, optimizer)
            optimizer.step()
            twin.step(lambda: backward(q, twin))

    ahead.train()
    go_on(p, ahead)
    assert not equal([*leaves(p)], [*leaves(q)])
    expected = [*leaves(twin.state_dict())]
    assert equal([*leaves(ahead.state_dict())], expected)
    for copied in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        other = copied(ahead)
        assert equal([*leaves(other.state_dict())], expected)
        assert equal([*leaves(other.param_groups[0]["params"])], [*leaves(q)])
    ahead.load_state_dict(ahead.state_dict())
    go_on(p, ahead)
    ahead.eval()
    assert equal([*leaves(p)], [*leaves(q)])


@each
def test_a_parameter_that_is_frozen_stands_still(method: str, seed: int) -> None:
    """From the next step on, at the model."""
    work, _ = trained(method, seed)
    p = work.parameters[2]
    (model,) = [
        m
        for m, q in zip(
            work.optimizer.phase.home_parts, work.optimizer.rows.parameters, strict=False
        )
        if q is p
    ]
    before = model.clone()
    p.requires_grad_(False)
    for _ in range(3):
        backward(work)
        work.optimizer.step()
        assert torch.equal(p, before)
    work.optimizer.eval()
    assert torch.equal(p, before)


@each
def test_a_parameter_that_is_exchanged_is_followed(method: str, seed: int) -> None:
    work, _ = trained(method, seed)
    old, new = work.parameters[2], nn.Parameter(torch.full((4, 37), 0.25))
    work.parameters[2] = work.optimizer.param_groups[1]["params"][0] = new
    backward(work)
    work.optimizer.step()
    work.optimizer.eval()
    left, start = old.clone(), new.clone()
    assert not torch.equal(new, torch.full_like(new, 0.25))
    work.optimizer.step(work.closure)
    assert torch.equal(old, left) and not torch.equal(new, start)
