"""Ways to take a step: closures, phases by hand, hooks; and what an interruption leaves behind."""

import copy
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import fastsaddle as fs
from fastsaddle.gradients import sam as sam_file
from fastsaddle.optimizer.shell import Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")
SHARP = {"dsaddle": fs.DSADDLe, "qsaddle": fs.QSADDLe}
PLAIN = {"dsgd": fs.DSGD, "dsgdm": fs.DSGDm, "qgm": fs.QGM}
each_sharp = pytest.mark.parametrize("method", SHARP.values(), ids=SHARP)
each_plain = pytest.mark.parametrize("method", PLAIN.values(), ids=PLAIN)
each = pytest.mark.parametrize("method", [*PLAIN.values(), *SHARP.values()], ids=[*PLAIN, *SHARP])


class Work:
    """Three agents on a ring with small networks, and an optimizer over two groups."""

    def __init__(self, method: type[Any], seed: int, sign: float = 1.0, **options: Any) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 4, 5, generator=draw))
        self.bias = nn.Parameter(torch.randn(3, 1, 5, generator=draw))
        self.x = torch.randn(3, 6, 4, generator=draw)
        self.y = torch.randn(3, 6, 5, generator=draw)
        self.sign, self.losses = sign, []
        groups = [{"params": [self.weight]}, {"params": [self.bias], "lr": 0.03}]
        self.optimizer = method(groups, lr=0.1, topology="ring", weight_decay=0.01, **options)

    def backward(self) -> torch.Tensor:
        outputs = torch.tanh(self.x @ self.weight + self.bias)
        loss = self.sign * (outputs - self.y).square().sum()
        loss.backward()
        self.losses.append(loss.detach())
        return loss

    def closure(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        return self.backward()

    def values(self) -> list[torch.Tensor]:
        state = [t for s in self.optimizer.state.values() for t in s.values()]
        return [t.detach().clone() for t in (self.weight, self.bias, *state)]

    def equals(self, values: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(self.values(), values, strict=True))


def gradients(work: Work) -> torch.Tensor:
    """Of each agent, `[agents, columns]`."""
    return torch.cat(
        [work.optimizer.rows.parts(work.optimizer.rows.g)[k].flatten(1) for k in (0, 1)], 1
    )


@each_sharp
def test_customs_of_sam_users_agree(method: type[Any], seed: int) -> None:
    whole = Work(method, seed)
    chosen, given, phases, customary = others = [
        Work(method, seed, closure_passes=passes) for passes in (1, 2, 2, 2)
    ]
    for step in range(3):
        loss = whole.optimizer.step(whole.closure)
        assert len(whole.losses) == 2 * (step + 1)
        assert torch.equal(loss, whole.losses[-2])

        chosen.closure()
        assert torch.equal(chosen.optimizer.step(chosen.backward), whole.losses[-1])
        given.closure()
        given.optimizer.step(given.backward, closure_passes=1)

        phases.closure()
        phases.optimizer.perturb()
        assert phases.optimizer.perturbed
        phases.closure()
        assert phases.optimizer.step() is None

        customary.backward()
        customary.optimizer.first_step(zero_grad=True)
        customary.backward()
        customary.optimizer.second_step(zero_grad=True)
        assert not gradients(customary).any()
        assert all(work.equals(whole.values()) for work in others)


@each_plain
def test_closure_is_called_once(method: type[Any], seed: int) -> None:
    closed, plain = Work(method, seed), Work(method, seed)
    for step in range(3):
        with torch.no_grad():
            loss = closed.optimizer.step(closed.closure)
        assert len(closed.losses) == step + 1
        assert torch.equal(loss, closed.losses[-1])
        plain.closure()
        assert plain.optimizer.step() is None
        assert closed.equals(plain.values())


@each_sharp
@pytest.mark.parametrize("adaptive", [False, True])
def test_perturbation_and_its_undoing(method: type[Any], adaptive: bool, seed: int) -> None:
    work = Work(method, seed, rho=0.3, adaptive=adaptive)
    work.closure()
    before = work.values()
    g = gradients(work).clone()
    x = torch.cat([p.flatten(1) for p in before[:2]], dim=1)
    direction, size = (x * x * g, x * g) if adaptive else (g, g)
    work.optimizer.perturb()
    moved = torch.cat([p.detach().flatten(1) for p in (work.weight, work.bias)], dim=1) - x
    expected = 0.3 * direction / size.norm(dim=1, keepdim=True)
    assert (moved - expected).abs().max() < 1e-6
    work.optimizer.restore()
    assert work.equals(before)
    work.optimizer.restore()
    assert work.equals(before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("method", "call"),
    [(m, 1) for m in (*PLAIN.values(), *SHARP.values())] + [(m, 2) for m in SHARP.values()],
)
def test_interrupted_closure_leaves_all_as_it_was(
    method: type[Any], error: type[BaseException], call: int, seed: int
) -> None:
    work, calm = Work(method, seed), Work(method, seed)
    work.optimizer.step(work.closure)
    calm.optimizer.step(calm.closure)
    before = work.values()
    calls = 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = work.closure()
        if calls == call:
            raise error
        return loss

    with pytest.raises(error):
        work.optimizer.step(closure)
    assert calls == call and work.equals(before)
    work.optimizer.step(work.closure)
    calm.optimizer.step(calm.closure)
    assert work.equals(calm.values())


@each_sharp
@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("is_before", [False, True])
def test_interrupt_beside_a_kernel(
    method: type[Any],
    group: int,
    by_hand: bool,
    is_before: bool,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C just before or after a kernel: in the middle of the perturbation, with two groups."""
    work = Work(method, seed)
    before, calls = work.values(), 0

    def interrupted(*arguments: Any) -> None:
        nonlocal calls
        if calls == group and is_before:
            signal.raise_signal(signal.SIGINT)
        kernel(*arguments)
        calls += 1
        if calls == group + 1 and not is_before:
            signal.raise_signal(signal.SIGINT)

    kernel: Callable[..., None] = sam_file.sam_perturb
    monkeypatch.setattr(sam_file, "sam_perturb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        if by_hand:
            work.closure()
            work.optimizer.perturb()
        else:
            work.optimizer.step(work.closure)
    assert calls == 2 and work.equals(before) and not work.optimizer.perturbed


@each_sharp
def test_phases_out_of_order_are_refused(method: type[Any], seed: int) -> None:
    work = Work(method, seed)
    work.closure()
    before = work.values()
    with pytest.raises(RuntimeError, match="needs two gradients a step"):
        work.optimizer.step()
    assert work.equals(before)
    saved = work.optimizer.state_dict()
    work.optimizer.perturb()
    perturbed, calls = work.values(), len(work.losses)
    for refused in (
        work.optimizer.perturb,
        work.optimizer.state_dict,
        lambda: work.optimizer.load_state_dict(saved),
        lambda: work.optimizer.add_param_group({"params": [nn.Parameter(torch.randn(3, 2))]}),
        lambda: copy.deepcopy(work.optimizer),
    ):
        with pytest.raises(RuntimeError, match="perturbed"):
            refused()
        assert work.equals(perturbed) and len(work.losses) == calls
    work.optimizer.restore()
    assert work.equals(before)


@each
def test_hooks_fire_once_a_step(method: type[Any], seed: int) -> None:
    other, work = Work(fs.DSGD, seed), Work(method, seed)
    fired: list[str] = []
    work.optimizer.register_step_pre_hook(lambda *_: fired.append("before"))
    work.optimizer.register_step_post_hook(lambda *_: fired.append("after"))
    everywhere = register_optimizer_step_post_hook(lambda *_: fired.append("everywhere"))
    try:
        work.optimizer.step(work.closure)
        if method in SHARP.values():
            work.closure()
            work.optimizer.first_step()
            work.closure()
            work.optimizer.second_step()
        else:
            work.optimizer.step()
        other.optimizer.register_step_pre_hook(lambda *_: fired.append("other"))
    finally:
        everywhere.remove()
    assert fired == ["before", "after", "everywhere"] * 2


@each
def test_clipping_in_every_pass(method: type[Any], seed: int) -> None:
    closed, phases = Work(method, seed), Work(method, seed)

    def clipped(work: Work) -> torch.Tensor:
        loss = work.closure()
        both = gradients(work).norm()
        assert both > 0.5
        assert torch.nn.utils.clip_grad_norm_([work.weight, work.bias], 0.5).allclose(both)
        return loss

    for _ in range(2):
        closed.optimizer.step(lambda: clipped(closed))
        clipped(phases)
        if method in SHARP.values():
            phases.optimizer.perturb()
            clipped(phases)
        phases.optimizer.step()
        assert closed.equals(phases.values())


@each
def test_maximizing_is_minimizing_the_negative(method: type[Any], seed: int) -> None:
    up, down = Work(method, seed, maximize=True), Work(method, seed, sign=-1.0)
    for _ in range(3):
        up.optimizer.step(up.closure)
        down.optimizer.step(down.closure)
    assert up.equals(down.values())


@each
def test_compiled_model(method: type[Any], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    results = []
    for compiled in (False, True):
        model = copy.deepcopy(plain)
        optimizer: Optimizer = method(model.parameters(), lr=0.1)
        forward = torch.compile(model, backend="aot_eager") if compiled else model
        x = torch.randn(4, 5, generator=draw.manual_seed(seed))

        def closure(
            optimizer: Optimizer = optimizer, forward: Any = forward, x: Any = x
        ) -> torch.Tensor:
            optimizer.zero_grad()
            loss = forward(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        results.append([p.detach() for p in model.parameters()])
    for one, other, began in zip(*results, plain.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-6 < (one - began).abs().max()
