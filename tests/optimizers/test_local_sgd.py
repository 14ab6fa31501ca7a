"""LocalSGD, DPPF and EASGD against float64 oracles; valley widths, periods, refusals, state."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from tests.optimizers import local_sgd_oracles
from tests.optimizers.agent_losses import (
    DECAY,
    DIM,
    RATE,
    AgentLosses,
    close,
    follow,
    follow_well_conditioned,
    groups,
    rows,
)
from tests.optimizers.local_sgd_oracles import quadratic_period
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot, twins

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS, NAN = 5, float("nan")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "local": ("LocalSGD", {}),
    "local-plain": ("LocalSGD", {"momentum": 0.0}),
    "local-nesterov": ("LocalSGD", {"momentum": 0.8, "nesterov": True}),
    "local-maximize": ("LocalSGD", {"maximize": True}),
    "dppf": ("DPPF", {}),
    "dppf-wide": ("DPPF", {"pull": 0.5, "push": 1.0, "nesterov": True}),
    "dppf-pull": ("DPPF", {"pull": 0.3, "push": 0.0, "momentum": 0.5}),
    "dppf-maximize": ("DPPF", {"maximize": True}),
    "easgd": ("EASGD", {}),
    "easgd-strong": ("EASGD", {"pull": 0.9, "nesterov": True}),
    "easgd-maximize": ("EASGD", {"pull": 0.5, "maximize": True}),
}
each = pytest.mark.parametrize("name", METHODS)
one_of_each = pytest.mark.parametrize("name", ["local", "dppf", "easgd-strong"])
Local = Callable[[Any], torch.optim.Optimizer]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, betas=(0.8, 0.99), weight_decay=0.1)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0, momentum=0.7)


LOCAL: dict[str, tuple[Local, float]] = {
    "adamw": (adamw, 0.01),
    "adamw's own defaults": (lambda p: torch.optim.AdamW(p), 0.02),
    "sgd": (sgd, RATE),
}


class Work:
    """One optimizer on its own copy of one problem, and the oracle of it."""

    def __init__(self, name: str, seed: int, same: bool = False, **more: Any) -> None:
        self.method, options = METHODS[name]
        self.options = {"lr": RATE, "weight_decay": DECAY, "period": 4, **options, **more}
        sign = -1.0 if self.options.get("maximize") else 1.0
        self.world = AgentLosses(AGENTS, seed, same, sign)
        self.parameters = self.world.parameters()
        self.optimizer = getattr(fs, self.method)(self.parameters, agents=AGENTS, **self.options)

    def oracle(self) -> local_sgd_oracles.LocalSGD:
        own = {k: v for k, v in self.options.items() if k not in ("lr", "weight_decay", "backend")}
        eta = torch.full((DIM,), self.options["lr"]).double()
        decay = torch.full((DIM,), self.options["weight_decay"]).double()
        made = getattr(local_sgd_oracles, self.method)
        return made(rows(self.world.start), self.world.gradient, eta, decay, **own)

    def step(self, at: int) -> Any:
        self.world.now = at
        return self.optimizer.step(self.world.closure(self.optimizer, self.parameters))


@each
@pytest.mark.parametrize(("period", "backend"), [(1, "native"), (3, "reference"), (4, "native")])
def test_twenty_steps_with_a_drop(name: str, period: int, backend: str, seed: int) -> None:
    """From one start, and with a period of three from independent ones."""
    more: dict[str, Any] = {"same": backend == "native", "period": period, "backend": backend}
    follow_well_conditioned(lambda seed: Work(name, seed, **more), seed)


@one_of_each
@pytest.mark.parametrize("period", [1, 3])
def test_two_groups(name: str, period: int, seed: int) -> None:
    """Other rates for two tensors; DPPF's norm still is of the whole model."""
    method, options = METHODS[name]
    world = AgentLosses(AGENTS, seed)
    parameters = world.parameters()
    given, eta, decay = groups(parameters)
    options = {**options, "period": period}
    optimizer = getattr(fs, method)(given, RATE, agents=AGENTS, weight_decay=DECAY, **options)
    made = getattr(local_sgd_oracles, method)
    oracle = made(rows(world.start), world.gradient, eta, decay, **options)
    follow(optimizer, world, parameters, oracle)


@one_of_each
@pytest.mark.parametrize("local", LOCAL)
@pytest.mark.parametrize("period", [1, 3])
def test_other_local_optimizers(name: str, local: str, period: int, seed: int) -> None:
    """They take the local steps, at this optimizer's learning rate."""
    given, rate = LOCAL[local]
    more: dict[str, Any] = {"local": given, "lr": rate, "weight_decay": 0.0, "period": period}
    follow_well_conditioned(lambda seed: Work(name, seed, **more), seed)


@one_of_each
def test_a_local_sgd_is_the_built_in_one(name: str, seed: int) -> None:
    built_in = Work(name, seed, weight_decay=0.0, momentum=0.7, nesterov=False)
    given = Work(name, seed, weight_decay=0.0, local=sgd)
    for step in range(9):
        built_in.step(step)
        given.step(step)
    close(rows(given.parameters), rows(built_in.parameters), 1e-6)


def test_local_is_called_once_an_agent(seed: int) -> None:
    calls: list[list[torch.Size]] = []

    def local(parameters: Any) -> torch.optim.Optimizer:
        parameters = list(parameters)
        calls.append([p.shape for p in parameters])
        return torch.optim.SGD(parameters, lr=0.1)

    work = Work("local", seed, weight_decay=0.0, local=local)
    for step in range(5):
        work.step(step)
    assert calls == [[p.shape[1:] for p in work.parameters]] * AGENTS


def test_default_options(seed: int) -> None:
    for method in ("LocalSGD", "DPPF", "EASGD"):
        world = AgentLosses(AGENTS, seed)
        parameters = world.parameters()
        optimizer = getattr(fs, method)(parameters, agents=AGENTS)
        eta, decay = torch.full((DIM,), 0.1).double(), torch.zeros(DIM).double()
        made = getattr(local_sgd_oracles, method)
        follow(optimizer, world, parameters, made(rows(world.start), world.gradient, eta, decay))


def test_pull_and_push_are_read_at_every_synchronization(seed: int) -> None:
    work = Work("dppf", seed, period=2)
    oracle = work.oracle()
    for step in range(12):
        if step % 3 == 0:
            oracle.pull, oracle.push = 0.1 + 0.05 * step, 0.2 * (1 + step)
            for group in work.optimizer.param_groups:
                group["pull"], group["push"] = oracle.pull, oracle.push
        work.step(step)
        oracle.step()
    close(rows(work.parameters), oracle.x)


@pytest.mark.parametrize("local", [None, adamw], ids=["sgd", "adamw"])
def test_the_center_follows_the_mean(local: Local | None, seed: int) -> None:
    """It starts at the agents' mean; `state` shows it."""
    work = Work("easgd-strong", seed, period=3, local=local, weight_decay=0.0, lr=0.03)
    oracle, before = work.oracle(), rows(work.parameters).mean(0)
    for step in range(8):
        held = rows([work.optimizer.state[p]["center"] for p in work.parameters])
        close(held, oracle.z[None])
        assert (step < 3) == bool((held - before).abs().max() <= 1e-6)
        work.step(step)
        oracle.step()


@pytest.mark.parametrize("agents", [2, 4, 7])
@pytest.mark.parametrize(("pull", "push"), [(0.1, 0.5), (0.4, 0.3), (1.0, 2.0)])
def test_valleys_are_push_over_pull_wide(agents: int, pull: float, push: float, seed: int) -> None:
    """Without gradients every agent's distance to the mean converges to push / pull; the mean of a pair stays."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.nn.Parameter(torch.randn(agents, 11, 5, generator=draw))
    b = torch.nn.Parameter(torch.randn(agents, generator=draw))
    given = [{"params": [a]}, {"params": [b], "lr": 0.3}]
    optimizer = fs.DPPF(given, agents=agents, pull=pull, push=push, period=1)
    mean = rows([a, b]).mean(0)
    for _ in range(300):
        a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
        optimizer.step()
    x = rows([a, b])
    distances = (x - x.mean(0)).norm(dim=1)
    assert (distances - push / pull).abs().max() <= 1e-4
    if agents == 2:
        assert (x.mean(0) - mean).abs().max() <= 1e-4


def test_agents_that_never_moved_are_not_pushed(seed: int) -> None:
    """At distance zero there is no direction, and no NaN."""
    parameters = AgentLosses(AGENTS, seed, same=True).parameters()
    before = rows(parameters)
    optimizer = fs.DPPF(parameters, agents=AGENTS, period=1)
    for _ in range(3):
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert (rows(parameters) - before).abs().max() <= 1e-6


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("local", [None, adamw], ids=["sgd", "adamw"])
def test_no_push_and_all_pull_is_local_sgd(period: int, local: Local | None, seed: int) -> None:
    more: dict[str, Any] = {"period": period, "local": local, "weight_decay": 0.0}
    one = Work("local", seed, **more)
    other = Work("dppf", seed, pull=1.0, push=0.0, **more)
    for step in range(10):
        one.step(step)
        other.step(step)
        assert all(map(torch.equal, one.parameters, other.parameters))


@pytest.mark.parametrize("name", METHODS)
def test_one_agent_is_sgd(name: str, seed: int) -> None:
    """Nobody to meet: pulls and pushes have no direction (EASGD's center still pulls)."""
    method, options = METHODS[name]
    if method == "EASGD":
        pytest.skip("a center pulls a single agent too")
    world = AgentLosses(1, seed, sign=-1.0 if options.get("maximize") else 1.0)
    ours, theirs = world.parameters(), world.parameters()
    optimizer = getattr(fs, method)(ours, lr=RATE, agents=1, weight_decay=DECAY, **options)
    known = {k: v for k, v in options.items() if k not in ("pull", "push")}
    known = {"momentum": 0.9, "lr": RATE, "weight_decay": DECAY, **known}
    reference = torch.optim.SGD(theirs, **known)
    for world.now in range(10):
        optimizer.step(world.closure(optimizer, ours))
        reference.step(world.closure(reference, theirs))
    close(rows(ours), rows(theirs))


def agreed(parameters: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, p[:1].expand_as(p)) for p in parameters)


@pytest.mark.parametrize("period", [1, 3, 4])
def test_agents_agree_where_they_met_and_nowhere_else(period: int, seed: int) -> None:
    work = Work("local", seed, period=period)
    for step in range(13):
        work.step(step)
        assert agreed(work.parameters) == ((step + 1) % period == 0)


@pytest.mark.parametrize("total", [None, 20])
def test_periods_follow_the_quadratic_rule(total: int | None, seed: int) -> None:
    """Rates fall within periods; with a total the last period is cut, so that all agree at the end."""
    base, growth = 2, 0.1
    # of twenty steps; (growth / lr)^2 is 1.2, then 4.9, then 9.8
    rates = [0.09] * 3 + [0.045] * 4 + [0.032] * 13
    rule = fs.QSR(base=base, growth=growth, total=total)
    work = Work("local", seed, period=rule)
    expected, meeting, met = [], base, []
    for step, rate in enumerate(rates):
        if step + 1 == meeting:
            expected.append(meeting)
            left = None if total is None else total - meeting
            meeting += quadratic_period(base, growth, rate, left)
            # the rule does not say which side of a change it reads
            assert step + 1 == len(rates) or rates[step + 1] == rate
        for group in work.optimizer.param_groups:
            group["lr"] = rate
        work.step(step)
        if agreed(work.parameters):
            met.append(step + 1)
    assert met == expected
    gaps = [b - a for a, b in itertools.pairwise([0, *met])]
    assert len(set(gaps)) > 2 and (total is None or met[-1] == total)


def test_a_period_takes_the_rate_of_its_first_step(seed: int) -> None:
    """As in the official trainer, whose schedule moves before it asks for the period; the last one is cut."""
    work = Work("local", seed, lr=0.1, period=fs.QSR(base=2, growth=0.03, total=60))
    met = []
    for step in range(60):
        work.optimizer.param_groups[0]["lr"] = 0.1 if step < 20 else 0.01
        work.step(step % 20)
        if agreed(work.parameters):
            met.append(step + 1)
    assert met == [*range(2, 21, 2), 29, 38, 47, 56, 60]


def test_the_first_period_is_the_base(seed: int) -> None:
    """At a warm-up's small rate the rule would wait for ever; a total shorter than the base still ends together."""
    for total, met in ((None, 3), (8, 3), (2, 2)):
        work = Work("local", seed, lr=1e-4, period=fs.QSR(3, growth=0.1, total=total))
        agreements = []
        for step in range(met):
            work.step(step)
            agreements.append(agreed(work.parameters))
        assert agreements == [False] * (met - 1) + [True]


def test_the_rule_needs_one_rate(seed: int) -> None:
    work = Work("local", seed, period=fs.QSR(1, growth=0.1))
    work.step(0)
    before, kept = snapshot(work.optimizer, work.parameters), RATE
    work.optimizer.param_groups[0]["lr"] = torch.full((AGENTS,), 0.01)
    with pytest.raises(ValueError, match=r"QSR needs one lr for all agents, got \(5,\)"):
        work.step(1)
    work.optimizer.param_groups[0]["lr"] = kept
    assert equal(before, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize(("name", "value"), [("pull", 1.5), ("push", NAN), ("push", -1.0)])
def test_bad_pulls_are_refused_later_too(name: str, value: float, seed: int) -> None:
    work = Work("dppf", seed, period=1)
    work.step(0)
    before, kept = snapshot(work.optimizer, work.parameters), work.optimizer.param_groups[0][name]
    work.optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        work.step(1)
    work.optimizer.param_groups[0][name] = kept
    assert equal(before, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize("local", [None, adamw], ids=["sgd", "adamw"])
@pytest.mark.parametrize("steps", [0, 1, 3, 6])
@one_of_each
def test_state_goes_on_bit_for_bit(name: str, steps: int, local: Local | None, seed: int) -> None:
    """From the middle of a period too; with it go the local optimizers' state and EASGD's center."""
    more: dict[str, Any] = {"period": 3, "local": local, "weight_decay": 0.0}
    work, fresh = Work(name, seed, **more), Work(name, seed + 1, **more)
    for step in range(steps):
        work.step(step)
    reload(work.optimizer, work.parameters, fresh.optimizer, fresh.parameters)
    fresh.world = work.world
    for step in range(steps, steps + 8):
        work.step(step)
        fresh.step(step)
        assert all(map(torch.equal, work.parameters, fresh.parameters)), step


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_a_growing_period_goes_on(steps: int, seed: int) -> None:
    def make(seed: int) -> Work:
        return Work("local", seed, period=fs.QSR(2, growth=0.1, total=18))

    work, fresh = make(seed), make(seed + 1)
    for step in range(18):
        if step == steps:
            reload(work.optimizer, work.parameters, fresh.optimizer, fresh.parameters)
            fresh.world = work.world
        for one in (work, fresh) if step >= steps else (work,):
            for group in one.optimizer.param_groups:
                group["lr"] = 0.09 if step < 3 else 0.04
            one.step(step)
        if step >= steps:
            assert all(map(torch.equal, work.parameters, fresh.parameters)), step
    assert agreed(work.parameters)


@pytest.mark.parametrize("local", [None, adamw], ids=["sgd", "adamw"])
@pytest.mark.parametrize("at", [1, 2], ids=["within", "at the meeting"])
@one_of_each
def test_a_failure_changes_nothing(name: str, at: int, local: Local | None, seed: int) -> None:
    more: dict[str, Any] = {"period": 3, "local": local, "weight_decay": 0.0}
    work, twin = Work(name, seed, **more), Work(name, seed, **more)
    for step in range(at):
        work.step(step)
        twin.step(step)
    before = snapshot(work.optimizer, work.parameters)
    work.world.now = at

    def interrupted() -> torch.Tensor:
        work.world.closure(work.optimizer, work.parameters)()
        raise KeyboardInterrupt

    def unlucky() -> torch.Tensor:
        work.optimizer.zero_grad()
        losses = work.world.of(work.parameters) * torch.tensor([1, torch.nan, 1, 1, 1])
        losses.sum().backward()
        return losses.sum()

    for closure, error in ((interrupted, KeyboardInterrupt), (unlucky, fs.NonFiniteGradientError)):
        with pytest.raises(error):
            work.optimizer.step(closure)
        assert equal(before, snapshot(work.optimizer, work.parameters))
    for step in range(at, at + 4):
        work.step(step)
        twin.step(step)
    after = snapshot(twin.optimizer, twin.parameters)
    assert equal(after, snapshot(work.optimizer, work.parameters))


@pytest.mark.parametrize("local", [None, sgd], ids=["sgd", "own"])
@one_of_each
def test_copies_step_like_the_original(name: str, local: Local | None, seed: int) -> None:
    work = Work(name, seed, period=3, local=local, weight_decay=0.0)
    for step in range(4):
        work.step(step)
    copies = twins(work.optimizer)
    for step in range(4, 7):
        work.step(step)
        for optimizer, parameters in copies:
            optimizer.step(work.world.closure(optimizer, parameters))
    for optimizer, parameters in copies:
        assert all(map(torch.equal, work.parameters, parameters))
        assert optimizer.bytes_sent == work.optimizer.bytes_sent


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DPPF", {"pull": -0.1}, "pull must be .*got -0.1"),
    ("DPPF", {"pull": 1.5}, "pull must be .*got 1.5"),
    ("DPPF", {"pull": NAN}, "pull must be .*got nan"),
    ("EASGD", {"pull": -0.1}, "pull must be .*got -0.1"),
    ("EASGD", {"pull": 1.5}, "pull must be .*got 1.5"),
    ("DPPF", {"push": -0.5}, "push must be .*got -0.5"),
    ("DPPF", {"push": float("inf")}, "push must be .*got inf"),
    *((m, {"period": 0}, "period must be .*got 0") for m in ("LocalSGD", "DPPF", "EASGD")),
    ("LocalSGD", {"period": -2}, "period must be .*got -2"),
    ("LocalSGD", {"period": 2.5}, "period must be .*got 2.5"),
    ("LocalSGD", {"agents": 4}, "agents"),
    ("LocalSGD", {"agents": 0}, "agents must be .*got 0"),
    ("LocalSGD", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1"),
    ("LocalSGD", {"lr": -1.0}, "lr must be >= 0 and finite, got -1"),
]


@pytest.mark.parametrize(("method", "options", "message"), REFUSED)
def test_bad_options(method: str, options: dict[str, Any], message: str, seed: int) -> None:
    parameters = AgentLosses(AGENTS, seed).parameters()
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(ValueError, match=message):
        getattr(fs, method)(parameters, **{"lr": 0.1, "agents": AGENTS, **options})
    assert all(map(torch.equal, parameters, before))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"base": 0}, "base"), ({"growth": 0.0}, "growth"), ({"growth": NAN}, "growth"), ({"total": 0}, "total")],
)  # fmt: skip
def test_bad_rules(options: dict[str, Any], name: str) -> None:
    rule = fs.QSR
    with pytest.raises(ValueError, match=f"{name} must be"):
        rule(**options)


@pytest.mark.parametrize("name", ["pull", "push"])
@pytest.mark.parametrize("late", [False, True], ids=["at first", "later"])
def test_groups_that_pull_apart_are_refused(name: str, late: bool, seed: int) -> None:
    """One norm and one mean of the whole model need one number; found before anything has changed."""
    world = AgentLosses(AGENTS, seed)
    parameters = world.parameters()
    given, _, _ = groups(parameters, **({} if late else {name: 0.25}))
    before: Any = None
    optimizer: Any = None

    def go() -> None:
        nonlocal optimizer, before
        optimizer = fs.DPPF(given, lr=0.1, agents=AGENTS, period=1)
        if late:
            optimizer.step(world.closure(optimizer, parameters))
            optimizer.param_groups[1][name] = 0.25
        before = snapshot(optimizer, parameters)
        optimizer.step(world.closure(optimizer, parameters))

    with pytest.raises(ValueError, match=f"{name} must be"):
        go()
    if optimizer is not None and before is not None:
        assert equal(before, snapshot(optimizer, parameters))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_local_optimizers_get_their_own_agents_rate(kind: Any) -> None:
    rates = torch.tensor([0.0, 0.125, 0.25])
    found = []
    for lr in (rates, *rates.tolist()):
        p = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = fs.LocalSGD([p], lr, agents=3, period=9, local=kind)
        p.grad = torch.ones_like(p)
        optimizer.step()
        found.append(p.detach())
    assert torch.equal(found[0], torch.stack([row[k] for k, row in enumerate(found[1:])]))


def test_agents_do_not_meet_at_perturbed_models() -> None:
    p = torch.nn.Parameter(torch.randn(3, 2))
    gradient, average = fs.gradients.SAM(), fs.comm.Average(3)
    optimizer = fs.Optimizer([p], gradient=gradient, communicator=average)
    p.grad = torch.ones_like(p)
    optimizer.perturb()
    with pytest.raises(RuntimeError, match="cannot be synchronized while parameters are perturbed"):
        optimizer.synchronize()
    optimizer.restore()
    optimizer.synchronize()
    assert torch.equal(p[0], p[1])
