"""Optimizers whose steps are interrupted by real signals, and all of their state to compare with a calm run's."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.optimizer_snapshots import Snapshot, equal, leaves

AGENTS = 4


class Interrupted(BaseException):
    """What handlers raise here."""


class Follower(fs.rules.Rule):
    """A user's own rule, which says nothing of what can fail."""

    hyperparameters = {"momentum": fs.rules.Range(0, 1, default=0.9)}
    states = (fs.rules.State("momentum_buffer"),)

    def step(self, rows: Any, comm: Any) -> None:
        direction = (rows.x - comm.mixed(rows.x - rows.lr * rows.g)) / rows.lr
        m = rows.states["momentum_buffer"].mul_(rows["momentum"]).add_(direction)
        rows.x.sub_(rows.lr * m)


def composed(rule: Any, compressor: Any = None, gradient: Any = None) -> Callable[..., Any]:
    def make(groups: Any, **options: Any) -> Any:
        gossip = fs.comm.Gossip("ring", compressor, consensus_step=0.5)
        return fs.Optimizer(groups, gradient=gradient, rule=rule, communicator=gossip, **options)

    return make


def on_ring(method: Any, **own: Any) -> Callable[..., Any]:
    return lambda groups, **options: method(groups, **{"topology": "ring", **own, **options})


BITS8 = fs.compressors.StochasticQuantizer(bits=8)
TOP = fs.compressors.TopK(0.3)
SIGN = fs.compressors.Sign()
CASES: dict[str, Callable[..., Any]] = {
    "QSADDLe": on_ring(fs.QSADDLe),
    "QSADDLe 8 bits": on_ring(fs.QSADDLe, compressor=BITS8),
    "QSADDLe MomentumSAM top-k": on_ring(fs.QSADDLe, sam=fs.MomentumSAM(), compressor=TOP),
    "DSADDLe LookSAM": on_ring(fs.DSADDLe, sam=fs.LookSAM(2)),
    "DSADDLe ESAM sign": on_ring(fs.DSADDLe, sam=fs.ESAM(), compressor=SIGN),
    "QGM": on_ring(fs.QGM),
    "QGM 8 bits": on_ring(fs.QGM, compressor=BITS8),
    "DSGDm bfloat16": on_ring(fs.DSGDm, state_dtype=torch.bfloat16),
    "DSGDm bfloat16 8 bits": on_ring(fs.DSGDm, state_dtype=torch.bfloat16, compressor=BITS8),
    "NGM": on_ring(fs.NGM),
    "NGM top-k": on_ring(fs.NGM, compressor=TOP),
    "NSADDLe LookSAM": on_ring(fs.NSADDLe, sam=fs.LookSAM(2)),
    "NSADDLe 8 bits": on_ring(fs.NSADDLe, compressor=BITS8),
    "GUT": on_ring(fs.GUT, momentum=0.9),
    "GUT SAM": lambda groups, **options: fs.Optimizer(
        groups,
        gradient=fs.gradients.Mixed(of=fs.gradients.SAM()),
        rule=fs.rules.GUT(),
        communicator=fs.comm.Gossip("ring"),
        **options,
    ),
    "GradientTracking": on_ring(fs.GradientTracking, momentum=0.9),
    "GradientTracking sign": on_ring(fs.GradientTracking, compressor=SIGN),
    "D2": on_ring(fs.D2, consensus_step=0.5, momentum=0.9),
    "SAM x D2": composed(fs.rules.D2(), gradient=fs.gradients.SAM()),
    "SAM x D2 top-k": composed(fs.rules.D2(), TOP, fs.gradients.SAM()),
    "RelaySGD": on_ring(fs.RelaySGD, topology="chain", momentum=0.9),
    "QGAdam": on_ring(fs.QGAdam),
    "LocalSGD": lambda groups, **options: fs.LocalSGD(groups, agents=AGENTS, period=2, **options),
    "EASGD": lambda groups, **options: fs.EASGD(groups, agents=AGENTS, period=2, **options),
    "DPPF": lambda groups, **options: fs.DPPF(groups, agents=AGENTS, period=2, **options),
    "own rule": composed(Follower()),
    "own rule SAM 8 bits": composed(Follower(), BITS8, fs.gradients.SAM()),
}
COMPRESSIBLE = (
    *(fs.DSGD, fs.DSGDm, fs.QGM, fs.QGAdam, fs.DSADDLe, fs.QSADDLe, fs.NGM, fs.NSADDLe),
    *(fs.GradientTracking, fs.MomentumTracking, fs.D2),
)
COMPRESSORS = {
    "8 bits": BITS8,
    "4 bits": fs.compressors.StochasticQuantizer(bits=4),
    "top-k": TOP,
    "random-k": fs.compressors.RandomK(0.3),
    "sign": SIGN,
}
# and every method with every compressor
EVERY: dict[str, Callable[..., Any]] = {
    **{method.__name__: on_ring(method, consensus_step=0.5) for method in COMPRESSIBLE},
    **{
        f"{method.__name__} {name}": on_ring(method, compressor=compressor, consensus_step=0.3)
        for method in COMPRESSIBLE
        for name, compressor in COMPRESSORS.items()
    },
    **CASES,
}
# how signals come: a timer's, once in a step or again and again; another process's; where a function is called
WAYS = ("alarm", "storm", "process", "moment")
# so many attempts without an interrupt: signals do not come
PATIENCE = 60


class Work:
    """An optimizer of four agents with two groups, and losses that depend on the parameters alone."""

    def __init__(self, case: str, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        shapes = ((4, 5), (), (37,))
        self.parameters = [nn.Parameter(torch.randn(AGENTS, *s, generator=draw)) for s in shapes]
        a, b, c = self.parameters
        groups = [{"params": [a, b]}, {"params": [c], "lr": 0.02}]
        # tests add cases of their own
        made = CASES.get(case) or EVERY[case]
        self.optimizer = made(groups, lr=0.05, weight_decay=0.01)
        self.pulls = [0.3 * torch.arange(AGENTS).reshape(-1, *[1] * len(s)) for s in shapes]

    def loss(self) -> torch.Tensor:
        pairs = zip(self.parameters, self.pulls, strict=True)
        return torch.stack([(p - pull).cosh().log().sum() for p, pull in pairs]).sum()

    def closure(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def state(self) -> Snapshot:
        """All that a step changes, gradients apart."""
        optimizer = self.optimizer
        groups = [{n: v for n, v in g.items() if n != "params"} for g in optimizer.param_groups]
        counted = (int(optimizer.rounds), optimizer.bytes_sent, optimizer.skipped, groups)
        counted = (*counted, optimizer.perturbed)
        held = [optimizer.state[p] for p in self.parameters]
        return [
            *leaves([self.parameters, optimizer.flat_state, optimizer.scalar_state, held, counted])
        ]

    def is_at_rest(self) -> bool:
        """Whether no step is in progress, and nothing of one was left in torch."""
        phase = self.optimizer.phase
        begun = phase.home, phase.norm, phase.rounds
        left = phase.end, phase.nbytes, *phase.home_parts, *phase.passing, *phase.looked
        return (
            all(part is None for part in begun)
            and not any(left)
            and not self.optimizer.rows.second_pass
            and torch.is_grad_enabled()
        )


def calm_run(case: str, seed: int, steps: int) -> list[Snapshot]:
    """The states before, between and after some steps that nobody interrupts."""
    work = Work(case, seed)
    states = [work.state()]
    for _ in range(steps):
        work.optimizer.step(work.closure)
        states.append(work.state())
    return states


class Alarm:
    """A handler that raises while it is armed, and counts where signals find the main thread.

    Attributes:
        is_armed: whether it raises.
        came: how often signals came while it was armed: in a "closure", in the "commit", in the rest of a "step", or
            "outside".
        passed: functions that the last error came through.
    """

    def __init__(self) -> None:
        self.is_armed = False
        self.came: Counter[str] = Counter()
        self.passed: set[str] = set()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.came[where(frame)] += 1
            raise Interrupted(number)

    def during(self, call: Callable[[], Any]) -> bool:
        """Make a call while armed; whether it was interrupted."""
        try:
            self.is_armed = True
            call()
            self.is_armed = False
        except Interrupted as error:
            # first of all, before another signal
            self.is_armed = False
            self.passed = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
            return True
        finally:
            self.is_armed = False
        return False


def where(frame: FrameType | None) -> str:
    """What a signal found the main thread at."""
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    for name, place in (("closure", "closure"), ("_commit", "commit"), ("step", "step")):
        if name in names:
            return place
    return "outside"


def at_moment(alarm: Alarm, moment: int) -> Callable[[Callable[[], Any]], bool]:
    """Interrupts a call where it begins a function, or has come back from one, for the time number `moment`.

    Handlers run there, and at the ends of loops' bodies.
    """

    def interrupted(call: Callable[[], Any]) -> bool:
        count = 0

        def profile(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal count
            if event in ("call", "c_return"):
                count += 1
                if count == moment:
                    signal.raise_signal(signal.SIGALRM)

        def profiled() -> None:
            sys.setprofile(profile)
            call()

        try:
            return alarm.during(profiled)
        finally:
            sys.setprofile(None)

    return interrupted


def count_moments(call: Callable[[], Any]) -> int:
    """How many moments of `at_moment` a call has."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_return")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@contextmanager
def handled(*signals: int, by: Any) -> Iterator[None]:
    """Let a handler have signals inside the block, and see that it still has them at its end."""
    before = {number: signal.signal(number, by) for number in signals}
    # what is raised in finalizers is ignored by Python; to tell of it could be interrupted too
    hook, sys.unraisablehook = sys.unraisablehook, deque[Any](maxlen=0).append
    try:
        yield
        assert all(signal.getsignal(number) is by for number in signals)
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sent_by_another_process(*signals: int, every: float) -> Iterator[None]:
    """Signals at random moments, on average `every` so many seconds, from a process of their own."""
    code = (
        "import os, random, time\n"
        f"while os.getppid() == {os.getpid()}:\n"
        f"    time.sleep(random.expovariate({1 / every}))\n"
        f"    os.kill({os.getpid()}, random.choice({list(map(int, signals))}))\n"
    )
    sender = subprocess.Popen([sys.executable, "-S", "-c", code])
    try:
        yield
    finally:
        sender.kill()
        sender.wait()


def step_time(case: str, seed: int) -> float:
    """Seconds that a step takes, the fastest of some."""
    work = Work(case, seed)
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        work.optimizer.step(work.closure)
        times.append(time.perf_counter() - begin)
    return min(times)


class Judge:
    """Follows a calm run by steps that are interrupted, and says of each what it left.

    Attributes:
        left: how many interrupted steps left all as "before", or as "after" the step.
    """

    def __init__(self, case: str, seed: int, steps: int = 12) -> None:
        self.case, self.seed = case, seed
        self.states = calm_run(case, seed, steps)
        self.left: Counter[str] = Counter()
        self.work, self.done = Work(case, seed), 0

    def attempt(self, interrupted: Callable[[Callable[[], Any]], bool]) -> bool:
        """One step, which `interrupted` makes and says whether it was; AssertionError where it was done by half."""
        if self.done == len(self.states) - 1:
            self.work, self.done = Work(self.case, self.seed), 0
        work = self.work
        was = interrupted(lambda: work.optimizer.step(work.closure))
        state, done = work.state(), self.done
        is_before, is_after = (equal(state, self.states[k]) for k in (done, done + 1))
        apart = () if is_before or is_after else differing(state, self.states[done : done + 2])
        assert not apart, f"{self.case}: neither before nor after, {apart}"
        assert was or is_after
        assert work.is_at_rest(), f"{self.case}: {vars(work.optimizer.phase)}"
        if was:
            self.left["before" if is_before else "after"] += 1
        self.done += is_after
        return was


def differing(state: Snapshot, others: list[Snapshot]) -> list[list[str]]:
    """Paths that differ, from each of some states."""
    return [
        [one[0] for one, two in zip(state, other, strict=False) if not equal([one], [two])]
        for other in others
    ]


def interrupt_steps(judge: Judge, way: str, wanted: int, draw: random.Random) -> Counter[str]:
    """Attempt steps until so many were interrupted in one of WAYS; what signals found the main thread at."""
    alarm, length = Alarm(), step_time(judge.case, judge.seed)
    work = Work(judge.case, judge.seed)
    work.optimizer.step(work.closure)
    last = 30 + count_moments(lambda: work.optimizer.step(work.closure))

    def attempt() -> None:
        if way == "process":
            judge.attempt(alarm.during)
        elif way == "moment":
            judge.attempt(at_moment(alarm, draw.randrange(1, last)))
        else:
            judge.attempt(by_timer(alarm, length, way == "storm", draw))

    sending = (
        sent_by_another_process(signal.SIGINT, signal.SIGUSR1, every=length / 2)
        if way == "process"
        else nullcontext()
    )
    with handled(signal.SIGALRM, signal.SIGINT, signal.SIGUSR1, by=alarm), sending:
        for _ in range(wanted * PATIENCE):
            if judge.left.total() >= wanted:
                break
            attempt()
    return alarm.came


def by_timer(
    alarm: Alarm, length: float, again: bool, draw: random.Random
) -> Callable[[Callable[[], Any]], bool]:
    """Interrupts a call of about `length` seconds at a random moment, and then `again` and again."""

    def interrupted(call: Callable[[], Any]) -> bool:
        def timed() -> None:
            first = draw.uniform(1e-6, 1.2 * length)
            # a shorter one leaves no time for anything else
            interval = max(2e-4, draw.uniform(0.05, 0.5) * length) if again else 0.0
            signal.setitimer(signal.ITIMER_REAL, first, interval)
            call()

        try:
            return alarm.during(timed)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return interrupted
