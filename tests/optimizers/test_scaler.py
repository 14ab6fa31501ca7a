"""`torch.amp.GradScaler`: a step that it skips leaves the model as it was, whichever pass overflowed."""

import random
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.interrupted_steps import CASES, Work
from tests.optimizers.optimizer_snapshots import equal
from tests.optimizers.test_wrappers import PassingWrapper, Wrapper

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 50
BY_HAND = {
    **{
        name: CASES[name]
        for name in ("QSADDLe", "QSADDLe 8 bits", "DSADDLe LookSAM", "DSADDLe ESAM sign")
    },
    "SAM x D2": CASES["SAM x D2"],
}
ALONE = {"QGM": CASES["QGM"], "GradientTracking": CASES["GradientTracking"]}


def scaler_of(growth: int = 1000) -> torch.amp.GradScaler:
    # a power of two changes no bit
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=growth)


def spoiled(loss: torch.Tensor, work: Work, who: int | None) -> torch.Tensor:
    """The loss, infinite in one agent's gradient where `who` is not None."""
    return loss if who is None else loss + work.parameters[2][who].sum() * torch.inf


@pytest.mark.parametrize("wrapper", [None, Wrapper, PassingWrapper])
@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("case", BY_HAND)
def test_overflows_in_either_pass(case: str, nonfinite: str, wrapper: Any, seed: int) -> None:
    """Fifty steps; those in which an agent's gradient overflowed are left out by hand in a loop without a scaler."""
    draw, scaler = random.Random(seed), scaler_of(7)
    work, twin = Work(case, seed), Work(case, seed)
    for each in (work, twin):
        each.optimizer.nonfinite = nonfinite
    o = work.optimizer if wrapper is None else wrapper(work.optimizer)
    left_out = 0
    for _ in range(STEPS):
        passes = o.passes
        overflow = draw.choice([None, None, 0, 1]) if passes == 2 else draw.choice([None, 0])
        who = [draw.randrange(4) if overflow == k else None for k in (0, 1)]
        scaler.scale(spoiled(work.loss(), work, who[0])).backward()
        if passes == 2:
            scaler.unscale_(o)
            o.perturb(zero_grad=True)
            scaler.update()
            scaler.scale(spoiled(work.loss(), work, who[1])).backward()
        before = scaler.get_scale()
        scaler.step(o)
        scaler.update()
        o.zero_grad()
        if overflow is not None:
            left_out += 1
            assert scaler.get_scale() < before or overflow < passes - 1
        else:
            twin.closure()
            if passes == 2:
                twin.optimizer.perturb()
                twin.closure()
            twin.optimizer.step()
        assert not o.perturbed and not work.optimizer.perturbed
        assert equal(work.state(), twin.state()) and work.is_at_rest()
        o.state_dict()
    assert 0 < left_out < STEPS


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("case", ALONE)
def test_one_pass(case: str, nonfinite: str, seed: int) -> None:
    draw, scaler = random.Random(seed), scaler_of(7)
    work, twin = Work(case, seed), Work(case, seed)
    for each in (work, twin):
        each.optimizer.nonfinite = nonfinite
    for step in range(STEPS):
        who = draw.choice([None, draw.randrange(4)])
        scaler.scale(spoiled(work.loss(), work, who)).backward()
        if step % 2:
            scaler.unscale_(work.optimizer)
        scaler.step(work.optimizer)
        scaler.update()
        work.optimizer.zero_grad()
        if who is None:
            twin.optimizer.step(twin.closure)
        assert equal(work.state(), twin.state())


@pytest.mark.parametrize("unscaled", [False, True])
def test_clipping_in_the_second_pass(unscaled: bool, seed: int) -> None:
    work, twin, scaler = Work("QSADDLe", seed), Work("QSADDLe", seed), scaler_of()
    for _ in range(5):
        scaler.scale(work.loss()).backward()
        scaler.unscale_(work.optimizer)
        work.optimizer.perturb(zero_grad=True)
        scaler.update()
        scaler.scale(work.loss()).backward()
        twin.closure()
        twin.optimizer.perturb()
        twin.closure()
        if unscaled:
            scaler.unscale_(work.optimizer)
            for each in (work, twin):
                nn.utils.clip_grad_norm_(each.parameters, 0.3)
        scaler.step(work.optimizer)
        scaler.update()
        work.optimizer.zero_grad()
        twin.optimizer.step()
        assert equal(work.state(), twin.state())


def test_the_smallest_loop() -> None:
    """Of one number, which the second pass' overflow used to leave perturbed."""
    model = nn.Linear(1, 1)
    before = model.weight.item()
    o, s = fs.DSADDLe(model.parameters(), lr=0.1, nonfinite="skip"), torch.amp.GradScaler("cpu")
    s.scale(model(torch.ones(1, 1)).sum()).backward()
    s.unscale_(o)
    o.perturb(zero_grad=True)
    s.update()
    s.scale(model(torch.ones(1, 1)).sum() * torch.inf).backward()
    s.step(o)
    s.update()
    o.zero_grad()
    assert not o.perturbed and model.weight.item() == before
    o.perturb()


def test_an_overflow_without_a_scaler_is_refused_by_the_step(seed: int) -> None:
    work = Work("QSADDLe", seed)
    before = work.state()
    spoiled(work.loss(), work, 1).backward()
    where = work.parameters[2][1].detach().clone()
    work.optimizer.perturb(zero_grad=True)
    assert work.optimizer.perturbed and torch.equal(work.parameters[2][1], where)
    work.closure()
    with pytest.raises(fs.NonFiniteGradientError, match=r"for agents \[1\]"):
        work.optimizer.step()
    assert equal(work.state(), before) and work.is_at_rest()
    work.optimizer.state_dict()


def test_undoing_a_perturbation_forgets_its_overflow(seed: int) -> None:
    work = Work("QSADDLe", seed)
    before = work.state()
    spoiled(work.loss(), work, 1).backward()
    work.optimizer.perturb()
    work.optimizer.restore()
    assert equal(work.state(), before)
    work.optimizer.state_dict()


@pytest.mark.parametrize(
    ("case", "advice"),
    [("QSADDLe", r"scaler\.unscale_\(optimizer\)"), ("NGM", "bfloat16"), ("GUT", "bfloat16")],
)
def test_closures_are_refused(case: str, advice: str, seed: int) -> None:
    work, scaler = Work(case, seed), scaler_of()
    before, calls = work.state(), 0

    def closure() -> None:
        nonlocal calls
        calls += 1
        work.optimizer.zero_grad()
        scaler.scale(work.loss()).backward()

    scaler.scale(work.loss()).backward()
    with pytest.raises(RuntimeError, match=rf"GradScaler.step takes no closure .*{advice}"):
        scaler.step(work.optimizer, closure)
    assert calls == 0 and equal(work.state(), before)
    # what the scaler told of that step is gone with it
    twin = Work(case, seed)
    for each in (work, twin):
        each.optimizer.step(each.closure)
    assert equal(work.state(), twin.state())


def test_a_step_without_its_first_pass_is_refused(seed: int) -> None:
    work, scaler = Work("QSADDLe", seed), scaler_of()
    before = work.state()
    scaler.scale(work.loss()).backward()
    with pytest.raises(RuntimeError, match="needs two gradients a step"):
        scaler.step(work.optimizer)
    assert equal(work.state(), before)


def test_momentum_sam_between_train_and_eval(seed: int) -> None:
    """One pass, at the perturbed model: the scaler leaves steps out as for any optimizer."""
    draw, scaler = random.Random(seed), scaler_of()
    work, twin = (Work("QSADDLe MomentumSAM top-k", seed) for _ in range(2))
    work.optimizer.train()
    for _ in range(20):
        who = draw.choice([None, draw.randrange(4)])
        scaler.scale(spoiled(work.loss(), work, who)).backward()
        scaler.step(work.optimizer)
        scaler.update()
        work.optimizer.zero_grad()
        if who is None:
            twin.optimizer.step(twin.closure)
    work.optimizer.eval()
    assert equal(work.state(), twin.state())


def test_bfloat16_parameters(seed: int) -> None:
    """Whose gradients are bfloat16 as well; what is left to unscale is what the scaler has not."""
    draw = torch.Generator().manual_seed(seed)
    works = []
    for scaler in (scaler_of(), None):
        p = nn.Parameter(torch.randn(4, 9, generator=draw.manual_seed(seed)).bfloat16())
        optimizer = fs.QSADDLe([p], lr=0.1, topology="ring")
        for step in range(6):
            for first in (True, False):
                loss = p.float().cosh().log().sum()
                if scaler is None:
                    loss.backward()
                else:
                    scaler.scale(loss).backward()
                    if first or step % 2:
                        scaler.unscale_(optimizer)
                if first:
                    optimizer.perturb(zero_grad=True)
                    if scaler is not None:
                        scaler.update()
            (optimizer if scaler is None else scaler).step(*[optimizer][: scaler is not None])
            if scaler is not None:
                scaler.update()
            optimizer.zero_grad()
        works.append(optimizer.state_dict()["state"][0]["master"])
    assert torch.equal(*works)
