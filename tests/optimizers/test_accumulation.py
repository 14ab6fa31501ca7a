"""Batches that accumulate: a step takes the gradient of their sum, or an error names the cause; nothing moves then."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.interrupted_steps import CASES, Work, composed
from tests.optimizers.optimizer_snapshots import equal

pytestmark = pytest.mark.usefixtures("one_thread")
# one gradient a step, taken at the models: it may be a sum over batches
AT_THE_MODELS = [
    name
    for name in CASES
    if not any(word in name for word in ("SADDLe", "SAM", "NGM", "GUT")) or name == "QGM 8 bits"
]
SEVERAL = [name for name in CASES if name not in AT_THE_MODELS]
TWO_PHASES = [name for name in SEVERAL if not any(w in name for w in ("NGM", "NSAD", "GUT"))]


def added(work: Work) -> Callable[[], torch.Tensor]:
    """A closure that zeroes nothing, as Lightning's at the last of several batches."""

    def closure() -> torch.Tensor:
        loss = work.loss()
        loss.backward()
        return loss

    return closure


def zeroed_in_place(work: Work) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        for p in work.parameters:
            if p.grad is not None:
                p.grad.zero_()
        return added(work)()

    return closure


def set_to_none(work: Work) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        for p in work.parameters:
            p.grad = None
        return added(work)()

    return closure


def assigned(work: Work) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        loss = work.loss()
        for p, g in zip(work.parameters, torch.autograd.grad(loss, work.parameters), strict=True):
            p.grad = g
        return loss

    return closure


def written(work: Work) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        loss = work.loss()
        for p, g in zip(work.parameters, torch.autograd.grad(loss, work.parameters), strict=True):
            assert p.grad is not None
            p.grad.copy_(g)
        return loss

    return closure


@pytest.mark.parametrize("make", [zeroed_in_place, set_to_none, assigned, written])
@pytest.mark.parametrize("case", SEVERAL)
def test_closures_that_begin_anew(case: str, make: Any, seed: int) -> None:
    work, twin = Work(case, seed), Work(case, seed)
    closure = make(work)
    # gradients that were there before count for nothing
    work.closure()
    for _ in range(3):
        work.optimizer.step(closure)
        twin.optimizer.step(twin.closure)
        assert equal(work.state(), twin.state())


@pytest.mark.parametrize("zero", ["optimizer", "module"])
@pytest.mark.parametrize("case", SEVERAL)
def test_closures_that_leave_zeroing_to_the_loop(case: str, zero: str, seed: int) -> None:
    """`optimizer.zero_grad(); optimizer.step(closure)`, with a closure that zeroes nothing."""
    work, twin = Work(case, seed), Work(case, seed)
    for _ in range(3):
        if zero == "optimizer":
            work.optimizer.zero_grad()
        else:
            for p in work.parameters:
                p.grad = None
        work.optimizer.step(added(work))
        twin.optimizer.step(twin.closure)
        assert equal(work.state(), twin.state())


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("case", SEVERAL)
def test_a_sum_of_gradients_is_refused(case: str, clips: bool, known: bool, seed: int) -> None:
    work, twin = Work(case, seed), Work(case, seed)
    if known:
        # its closures were seen to zero gradients
        for each in (work, twin, work, twin):
            each.optimizer.step(each.closure)
    before = work.state()

    def closure() -> torch.Tensor:
        loss = added(work)()
        if clips:
            nn.utils.clip_grad_norm_(work.parameters, 0.5)
        return loss

    work.closure()
    with pytest.raises(RuntimeError, match=r"gradients must be zeroed .*accumulate_grad_batches"):
        work.optimizer.step(closure)
    assert equal(work.state(), before) and work.is_at_rest()
    for each in (work, twin):
        each.optimizer.step(each.closure)
    assert equal(work.state(), twin.state())


def test_a_closure_that_fails_leaves_gradients_as_they_were(seed: int) -> None:
    work = Work("QSADDLe", seed)
    work.closure()
    before = [copy.deepcopy(p.grad) for p in work.parameters]

    def closure() -> torch.Tensor:
        raise KeyError

    with pytest.raises(KeyError):
        work.optimizer.step(closure)
    for p, gradient in zip(work.parameters, before, strict=True):
        assert p.grad is not None and gradient is not None and torch.equal(p.grad, gradient)


def test_a_closure_that_zeroes_only_at_first_is_refused(seed: int) -> None:
    work = Work("QSADDLe", seed)
    before, calls = work.state(), 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        return work.closure() if calls == 1 else added(work)()

    with pytest.raises(RuntimeError, match="gradients must be zeroed"):
        work.optimizer.step(closure)
    assert calls == 2 and equal(work.state(), before)


@pytest.mark.parametrize("case", AT_THE_MODELS)
def test_one_gradient_may_be_a_sum(case: str, seed: int) -> None:
    work, twin = Work(case, seed), Work(case, seed)
    for _ in range(3):
        work.closure()
        work.optimizer.step(added(work))
        twin.optimizer.zero_grad()
        twin.loss().backward()
        twin.loss().backward()
        twin.optimizer.step()
        assert equal(work.state(), twin.state())


def test_steps_of_looksam_that_take_one_gradient_may_sum(seed: int) -> None:
    work, twin = Work("DSADDLe LookSAM", seed), Work("DSADDLe LookSAM", seed)
    for _ in range(2):
        for each in (work, twin):
            each.optimizer.step(each.closure)
        assert work.optimizer.passes == 1
        work.closure()
        work.optimizer.step(added(work))
        twin.closure()
        twin.loss().backward()
        twin.optimizer.step()
        assert equal(work.state(), twin.state())


@pytest.mark.parametrize("case", TWO_PHASES)
def test_a_closure_after_perturb_is_the_second_pass(case: str, seed: int) -> None:
    """One that does nothing, one that zeroes gradients, one that adds to a part of the second pass."""

    def nothing() -> None:
        return None

    makes = (
        lambda work: work.optimizer.step(),
        lambda work: work.optimizer.step(nothing),
        lambda work: work.optimizer.step(work.closure),
    )
    works = [Work(case, seed) for _ in makes]
    for _ in range(4):
        for work, make in zip(works, makes, strict=True):
            if work.optimizer.passes == 1 and "Momentum" not in case:
                work.optimizer.step(work.closure)
                continue
            work.closure()
            work.optimizer.perturb(zero_grad=True)
            work.loss().backward()
            make(work)
        assert equal(works[0].state(), works[1].state())
        assert equal(works[0].state(), works[2].state())
    halves, whole = Work(case, seed), Work(case, seed)
    for work in (halves, whole):
        work.closure()
        work.optimizer.perturb()
        work.optimizer.zero_grad()
        work.loss().backward()
    halves.optimizer.step(added(halves))
    whole.loss().backward()
    whole.optimizer.step()
    assert equal(halves.state(), whole.state())


def test_the_first_gradient_is_not_taken_for_the_second(seed: int) -> None:
    """`perturb()` without zeroing, and a closure that adds to what it left."""
    work = Work("QSADDLe", seed)
    work.closure()
    before = work.state()
    work.optimizer.perturb()
    with pytest.raises(RuntimeError, match="gradients must be zeroed"):
        work.optimizer.step(added(work))
    assert equal(work.state(), before)


def test_a_gradient_of_ones_own_that_takes_several(seed: int, monkeypatch: Any) -> None:
    """It says so in `evaluations`; its closures are seen to without more."""

    class Ahead(fs.gradients.Gradient):
        needs_closure = "takes a second gradient ahead"

        def evaluations(self, communicator: Any) -> float:
            return 2

        def take(self, optimizer: Any, closure: Any, passes: Any = None) -> Any:
            loss = optimizer.evaluate(closure)
            optimizer.collect()
            optimizer.visit(optimizer.rows.x - 0.1 * optimizer.rows.g)
            optimizer.evaluate(closure)
            return loss

    case = composed(fs.rules.Momentum("quasi-global"), gradient=Ahead())
    monkeypatch.setitem(CASES, "ahead", case)
    work, twin = Work("ahead", seed), Work("ahead", seed)
    for _ in range(2):
        work.optimizer.zero_grad()
        work.optimizer.step(added(work))
        twin.optimizer.step(twin.closure)
        assert equal(work.state(), twin.state())
    work.closure()
    with pytest.raises(RuntimeError, match="gradients must be zeroed"):
        work.optimizer.step(added(work))
    assert equal(work.state(), twin.state())


def test_engines_write_gradients_anew(seed: int) -> None:
    """A gradient engine is known to overwrite what is there: nothing is read, nothing is zeroed."""
    from fastsaddle.sim.gradient_engine import GradientEngine

    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.Linear(3, 2), 4)
    optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, topology="ring")
    engine = GradientEngine(stack, lambda outputs, targets: (outputs - targets).square().mean())
    inputs, targets = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    optimizer.step(lambda: engine.gradients(inputs, targets).mean())
    zeroed = optimizer.live.zeroed
    optimizer.step(lambda: engine.gradients(inputs, targets).mean())
    assert optimizer.live.renews and optimizer.live.zeroed == zeroed


def test_other_processes_hear_of_a_refused_gradient(seed: int) -> None:
    """Where agents are in several processes, all of them ask each other before any raises."""
    work = Work("QSADDLe", seed)
    asked: list[torch.Tensor] = []
    work.optimizer.communicator.agree = asked.append
    work.optimizer.step(work.closure)
    assert len(asked) == 1
    with torch.no_grad():
        work.parameters[0][1] = torch.nan
    with pytest.raises(fs.NonFiniteGradientError):
        work.optimizer.step(work.closure)
    assert len(asked) == 2 and not asked[1][1].isfinite()
