"""Agents with torch optimizers of their own: each has its own rate, and a step of all is done whole or not at all."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.rules.any_torch import Held, LocalOptimizers

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS = 3
LOCAL: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, lr=7.0),
    "AdamW": lambda p: torch.optim.AdamW(p, weight_decay=0.3),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
}
METHODS: dict[str, Callable[..., Any]] = {
    "LocalSGD": lambda p, lr, local: fs.LocalSGD(p, lr, agents=AGENTS, period=100, local=local),
    "EASGD": lambda p, lr, local: fs.EASGD(p, lr, agents=AGENTS, period=100, local=local),
    "Torch": lambda p, lr, local: fs.Optimizer(
        p,
        lr,
        rule=fs.rules.Torch(local),
        communicator=fs.comm.Gossip(fs.topology.ring(AGENTS), every=100),
    ),
}


def parameters(seed: int) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(AGENTS, *s, generator=draw)) for s in ((4, 5), (), (7,))]


def gradients(seed: int, given: list[nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed + 1)
    while True:
        yield [torch.randn(p.shape, generator=draw) for p in given]


@pytest.mark.parametrize("local", LOCAL)
@pytest.mark.parametrize("name", METHODS)
def test_each_agent_has_its_own_rate(name: str, local: str, seed: int) -> None:
    """As so many optimizers of plain torch, each with its agent's rate, in two groups whose rates change."""
    given = parameters(seed)
    twins = [[nn.Parameter(p.detach()[i].clone()) for p in given] for i in range(AGENTS)]
    rates = torch.rand(2, AGENTS, generator=torch.Generator().manual_seed(seed)) / 10
    groups = [{"params": given[:2], "lr": rates[0]}, {"params": given[2:], "lr": rates[1]}]
    optimizer = METHODS[name](groups, 0.1, LOCAL[local])
    own = [LOCAL[local]([{"params": twin[:2]}, {"params": twin[2:]}]) for twin in twins]
    for step, grads in zip(range(6), gradients(seed, given), strict=False):
        if step == 3:
            optimizer.param_groups[0]["lr"] = rates[1] / 2
            optimizer.param_groups[1]["lr"] = 0.01
        now = [rates[1] / 2 if step >= 3 else rates[0], 0.01 if step >= 3 else rates[1]]
        for p, grad in zip(given, grads, strict=True):
            p.grad.copy_(grad)
        optimizer.step()
        for i, (twin, torchs) in enumerate(zip(twins, own, strict=True)):
            for group, rate in zip(torchs.param_groups, now, strict=True):
                group["lr"] = float(rate[i]) if isinstance(rate, torch.Tensor) else rate
            for p, grad in zip(twin, grads, strict=True):
                p.grad = grad[i].clone()
            torchs.step()
    for k, p in enumerate(given):
        expected = torch.stack([twin[k].detach() for twin in twins])
        assert torch.allclose(p.detach(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("local", LOCAL)
def test_an_ordinary_module_is_stepped_whole(local: str, seed: int) -> None:
    """Without a graph parameters have no agents in front; all of each must move as in plain torch."""
    torch.manual_seed(seed)
    given = [nn.Parameter(torch.randn(shape)) for shape in ((4, 5), (), (7,), (2, 3, 2))]
    twin = [nn.Parameter(p.detach().clone()) for p in given]
    optimizer = fs.Optimizer(given, 0.1, rule=fs.rules.Torch(LOCAL[local]))
    own = LOCAL[local](twin)
    own.param_groups[0]["lr"] = 0.1
    for _, grads in zip(range(5), gradients(seed, given), strict=False):
        for p, q, grad in zip(given, twin, grads, strict=True):
            p.grad.copy_(grad)
            q.grad = grad.clone()
        optimizer.step()
        own.step()
    for p, q in zip(given, twin, strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-7)


class Failing(torch.optim.AdamW):
    """Counts its steps everywhere that torch's optimizers keep things, and fails where it is told to."""

    fails = False

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        group = self.param_groups[0]
        group["taken"] = group.get("taken", 0) + 1
        found = super().step(closure)
        for state in self.state.values():
            state["past"] = [*state.get("past", []), state["exp_avg"].clone()]
        if self.fails:
            raise ArithmeticError("this agent's optimizer fails")
        return found


def held(optimizer: Any) -> list[Any]:
    """All values of parameters and of the agents' own optimizers."""

    def flat(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                yield key
                yield from flat(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from flat(item)
        else:
            yield value.clone() if isinstance(value, torch.Tensor) else value

    mine = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    counted = [g.get("steps_done") for g in optimizer.param_groups], optimizer.bytes_sent
    return [
        *flat(mine),
        *flat(optimizer.locals.state_dicts()),
        *flat(counted),
        int(optimizer.rounds),
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("failing", range(AGENTS))
@pytest.mark.parametrize("name", METHODS)
def test_one_agents_failure_leaves_all_as_they_were(
    name: str, failing: int, before: int, seed: int
) -> None:
    made = [METHODS[name](parameters(seed), 0.05, Failing) for _ in range(2)]
    draws = gradients(seed, parameters(seed))

    def step(optimizer: Any, grads: list[torch.Tensor]) -> None:
        for p, grad in zip(optimizer.param_groups[0]["params"], grads, strict=True):
            p.grad.copy_(grad)
        optimizer.step()

    for _ in range(before):
        grads = next(draws)
        for optimizer in made:
            step(optimizer, grads)
    optimizer, twin = made
    known, grads = held(optimizer), next(draws)
    for _ in range(2):
        optimizer.locals.optimizers[failing].fails = True
        with pytest.raises(ArithmeticError, match="fails"):
            step(optimizer, grads)
        assert same(known, held(optimizer))
    optimizer.locals.optimizers[failing].fails = False
    for _ in range(3):
        grads = next(draws)
        step(optimizer, grads)
        step(twin, grads)
    assert same(held(optimizer), held(twin))


def test_the_last_agents_missing_closure_leaves_the_first_ones(seed: int) -> None:
    """One optimizer of another kind among them, that cannot step without a closure."""
    made: list[torch.optim.Optimizer] = []

    def local(given: Any) -> torch.optim.Optimizer:
        kind = torch.optim.LBFGS if len(made) == AGENTS - 1 else torch.optim.AdamW
        made.append(kind(given))
        return made[-1]

    given = parameters(seed)
    optimizer = fs.LocalSGD(given, 0.1, agents=AGENTS, local=local)
    before = [p.detach().clone() for p in given]
    for p in given:
        p.grad.normal_()
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    assert all(map(torch.equal, before, [p.detach() for p in given]))
    assert not any(len(one.state) for one in made)


def step_by(optimizer: Any, given: list[nn.Parameter], grads: list[torch.Tensor]) -> None:
    for p, grad in zip(given, grads, strict=True):
        if p.requires_grad:
            p.grad = grad.clone()
    optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_parameter_lies_in_no_former_buffer(name: str, seed: int) -> None:
    given, draws = parameters(seed), gradients(seed, parameters(seed))
    optimizer = METHODS[name](given, 0.1, LOCAL["AdamW"])
    step_by(optimizer, given, next(draws))
    given[0].requires_grad_(False)
    given[0].data = given[0].detach().clone()
    step_by(optimizer, given, next(draws))
    for agent, ((frozen, *_),) in enumerate(optimizer.locals.parameters):
        assert frozen.grad is None and not frozen.requires_grad
        assert frozen.data_ptr() == given[0][agent].data_ptr()
    with torch.no_grad():
        given[0].normal_()
    for agent, ((frozen, *_),) in enumerate(optimizer.locals.parameters):
        assert torch.equal(frozen, given[0][agent])
    before = given[0].detach().clone()
    step_by(optimizer, given, next(draws))
    assert torch.equal(given[0], before)
    given[0].requires_grad_(True)
    step_by(optimizer, given, next(draws))
    assert not torch.equal(given[0], before)


@pytest.mark.parametrize("local", LOCAL)
@pytest.mark.parametrize("name", METHODS)
def test_parameters_are_attached_again_where_it_is_needed(
    name: str, local: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that attaches in each step: when nothing moved, and where gradients or values were replaced."""
    attached: list[int] = []
    attach = LocalOptimizers.attach

    def counted(self: LocalOptimizers, owner: Any) -> None:
        attached.append(id(self))
        attach(self, owner)

    monkeypatch.setattr(LocalOptimizers, "attach", counted)
    both = [parameters(seed) for _ in range(2)]
    optimizer, twin = (METHODS[name](given, 0.05, LOCAL[local]) for given in both)
    draws = gradients(seed, both[0])

    def attachments(disturb: Callable[[], Any]) -> int:
        grads = next(draws)
        disturb()
        attached.clear()
        step_by(optimizer, both[0], grads)
        found = attached.count(id(optimizer.locals))
        twin.locals.attach(twin)
        step_by(twin, both[1], grads)
        assert all(map(torch.equal, both[0], both[1]))
        return found

    assert not any(attachments(lambda: None) for _ in range(3))
    mine = optimizer.locals.parameters[1][0][2]
    assert attachments(optimizer.locals.optimizers[1].zero_grad) == 1
    assert attachments(lambda: setattr(mine, "grad", torch.randn(7))) == 1
    assert attachments(lambda: setattr(mine, "data", torch.randn(7))) == 1
    assert attachments(lambda: setattr(both[0][1], "data", both[0][1].detach().clone())) >= 1
    assert attachments(lambda: None) == 0


def test_a_state_that_moved_to_another_device_is_kept_there(seed: int) -> None:
    p = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(seed)))
    optimizer = torch.optim.AdamW([p])
    p.grad = torch.randn(5)
    optimizer.step()
    held, kept = Held(optimizer), optimizer.state[p]["exp_avg_sq"].clone()
    held.remember()
    optimizer.state[p]["exp_avg"] = moved = optimizer.state[p]["exp_avg"].to("meta")
    held.remember()
    optimizer.state[p]["exp_avg_sq"].normal_()
    held.put_back()
    assert optimizer.state[p]["exp_avg"] is moved
    assert torch.equal(optimizer.state[p]["exp_avg_sq"], kept)
