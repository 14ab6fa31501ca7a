"""A step that a signal interrupts anywhere leaves all as before it, or as after it.

FASTSADDLE_INTERRUPTS=20000 asks for so many interrupts at random moments.
"""

import copy
import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.optimizer.commit import Commit, interruptible
from tests.optimizers.interrupted_steps import (
    AGENTS,
    CASES,
    Alarm,
    Interrupted,
    Judge,
    Work,
    at_moment,
    by_timer,
    calm_run,
    count_moments,
    handled,
    interrupt_steps,
    step_time,
)
from tests.optimizers.optimizer_snapshots import equal

pytestmark = pytest.mark.usefixtures("one_thread")
INTERRUPTS = int(os.environ.get("FASTSADDLE_INTERRUPTS", "400"))
each = pytest.mark.parametrize("case", CASES)
BY_HAND = (
    "QSADDLe",
    "QSADDLe 8 bits",
    "DSADDLe ESAM sign",
    "SAM x D2 top-k",
    "own rule SAM 8 bits",
)


@pytest.mark.parametrize("how", ["alarm", "storm", "process"])
@each
def test_random_moments(case: str, how: str, seed: int) -> None:
    judge, wanted = Judge(case, seed), max(2, INTERRUPTS // (3 * len(CASES)))
    came = interrupt_steps(judge, how, wanted, random.Random(seed))
    print(f"{case}, {how}: {dict(judge.left)}, signals in {dict(came)}")
    assert judge.left.total() >= wanted


@each
def test_every_moment(case: str, seed: int) -> None:
    """Where the interpreter calls handlers: some of these moments, all where many interrupts are asked for."""
    work = Work(case, seed)
    work.optimizer.step(work.closure)
    last = 30 + count_moments(lambda: work.optimizer.step(work.closure))
    moments = random.Random(seed).sample(range(1, last), last - 1 if INTERRUPTS > 10000 else 25)
    alarm, judge = Alarm(), Judge(case, seed)
    with handled(signal.SIGALRM, by=alarm):
        for moment in moments:
            judge.attempt(at_moment(alarm, moment))
    print(f"{case}: {dict(judge.left)} of {last}, signals in {dict(alarm.came)}")


@pytest.mark.parametrize("how", ["alarm", "storm", "moment"])
@pytest.mark.parametrize("case", BY_HAND)
def test_phases_by_hand(case: str, how: str, seed: int) -> None:
    """An interrupted perturb() leaves the model as it was; the loop goes on with a new gradient."""
    draw = random.Random(seed)
    states = calm_run(case, seed, 8)
    alarm, length = Alarm(), step_time(case, seed) / 3
    came = 0

    def interrupted(call: Callable[[], Any]) -> bool:
        if how == "moment":
            return at_moment(alarm, draw.randrange(1, 700))(call)
        return by_timer(alarm, length, how == "storm", draw)(call)

    with handled(signal.SIGALRM, by=alarm):
        work, done = Work(case, seed), 0
        for _ in range(max(20, INTERRUPTS // 20)):
            work.closure()
            if interrupted(partial(work.optimizer.perturb, zero_grad=True)):
                came += 1
                if "perturb" in alarm.passed:
                    assert equal(work.state(), states[done])
                # otherwise the signal came when the call was over
                work.optimizer.restore()
                assert equal(work.state(), states[done]) and work.is_at_rest()
                continue
            assert work.optimizer.perturbed
            work.loss().backward()
            was = interrupted(work.optimizer.step)
            came += was
            if work.optimizer.perturbed:
                # the signal came before the step had begun
                assert was
                work.optimizer.restore()
            is_after = equal(work.state(), states[done + 1])
            assert work.is_at_rest() and (is_after or equal(work.state(), states[done]))
            done += is_after
            if done == len(states) - 1:
                work, done = Work(case, seed), 0
    print(f"{case}, {how}: {came} interrupted, signals in {dict(alarm.came)}")


def third_group(optimizer: Any) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(AGENTS, 40))], "lr": 0.5})


ACTIONS: dict[str, tuple[str, Callable[[Any, Any], None]]] = {
    "load": ("QSADDLe 8 bits", lambda optimizer, saved: optimizer.load_state_dict(saved)),
    "load center": ("EASGD", lambda optimizer, saved: optimizer.load_state_dict(saved)),
    "another group": ("QGM 8 bits", lambda optimizer, saved: third_group(optimizer)),
    "another group of GUT": ("GUT", lambda optimizer, saved: third_group(optimizer)),
    "synchronize": ("LocalSGD", lambda optimizer, saved: optimizer.synchronize()),
    "synchronize center": ("EASGD", lambda optimizer, saved: optimizer.synchronize()),
    "synchronize DPPF": ("DPPF", lambda optimizer, saved: optimizer.synchronize()),
    "restore": ("QSADDLe", lambda optimizer, saved: optimizer.restore()),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_no_step(action: str, seed: int) -> None:
    case, act = ACTIONS[action]
    saved = Work(case, seed)
    saved.optimizer.step(saved.closure)
    state = copy.deepcopy(saved.optimizer.state_dict())

    def work_before() -> Work:
        work = Work(case, seed)
        for _ in range(3):
            work.optimizer.step(work.closure)
        if action == "restore":
            work.closure()
            work.optimizer.perturb()
        return work

    work = work_before()
    before = work.state()
    last = 10 + count_moments(lambda: act(work.optimizer, state))
    after, alarm = work.state(), Alarm()
    assert not equal(before, after)
    found = set()
    with handled(signal.SIGALRM, by=alarm):
        drawn = random.Random(seed).sample(range(1, last), min(last - 1, max(20, INTERRUPTS // 20)))
        # the first ones come before anything is held
        for moment in (1, 2, 3, *drawn):
            work = work_before()
            at_moment(alarm, moment)(partial(act, work.optimizer, state))
            left = work.state()
            is_after = equal(left, after)
            assert is_after or equal(left, before), f"moment {moment} of {last}"
            found.add(is_after)
            work.optimizer.restore()
            work.optimizer.step(work.closure)
    assert found == {False, True}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@each
def test_errors_in_every_call_of_a_closure(
    case: str, error: type[BaseException], seed: int
) -> None:
    """What a closure raises, in whichever call, at its beginning or end, undoes the step."""
    states, calls = calm_run(case, seed, 3), 0
    work = Work(case, seed)

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == number and not is_end:
            raise error
        loss = work.closure()
        if calls == number and is_end:
            raise error
        return loss

    for done in range(2):
        number, is_end = 0, False
        while True:
            is_end, number, calls = not is_end, number + (not is_end), 0
            try:
                work.optimizer.step(closure)
            except error:
                assert equal(work.state(), states[done]) and work.is_at_rest()
            else:
                assert equal(work.state(), states[done + 1]) and number > 1
                break


def test_a_handler_raises_while_the_step_does(seed: int) -> None:
    """Both are told: the handler's error has the step's as context; nothing has moved."""
    work = Work("QSADDLe 8 bits", seed)
    before, alarm = work.state(), Alarm()

    def closure() -> None:
        work.closure()
        # Python calls handlers at the next call, which is beyond the closure
        work.parameters[0].grad[0, 0, 0] = torch.inf  # type: ignore[index]

    def agree(norm: torch.Tensor) -> None:
        signal.raise_signal(signal.SIGALRM)
        raise fs.NonFiniteGradientError("another process")

    work.optimizer.communicator.agree = agree
    with handled(signal.SIGALRM, by=alarm):
        alarm.is_armed = True
        with pytest.raises(Interrupted) as caught:
            work.optimizer.step(work.closure)
        alarm.is_armed = False
        assert isinstance(caught.value.__context__, fs.NonFiniteGradientError)
        assert equal(work.state(), before) and work.is_at_rest()
        with pytest.raises(fs.NonFiniteGradientError):
            work.optimizer.step(closure)
        assert not work.optimizer.perturbed and work.is_at_rest()


# -- who waits, who does not, and that all of them come


def test_handlers_run_once_each_after_the_block() -> None:
    ran: list[Any] = []

    def note(number: int, frame: Any) -> None:
        ran.append(number)

    signals = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGUSR1]
    with handled(*set(signals), by=note):
        with Commit():
            with Commit():
                for number in signals:
                    signal.raise_signal(number)
            assert ran == []
        assert ran == signals
        signal.raise_signal(signal.SIGUSR2)
        assert ran.pop() == signal.SIGUSR2


def test_all_handlers_run_where_one_raises() -> None:
    ran: list[int] = []

    def note(number: int, frame: Any) -> None:
        ran.append(number)
        if number != signal.SIGUSR2:
            raise Interrupted(number)

    signals = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM]
    with handled(*signals, by=note):
        with pytest.raises(Interrupted) as caught, Commit():
            for number in signals:
                signal.raise_signal(number)
        assert ran == signals and caught.value.args == (signal.SIGALRM,)
        assert isinstance(caught.value.__context__, Interrupted)


def test_actions_that_are_no_handlers_stay() -> None:
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        with Commit():
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
            signal.raise_signal(signal.SIGUSR1)
        # a default action is what the system does, at once
        child = os.fork()
        if child == 0:
            with Commit():
                signal.raise_signal(signal.SIGUSR2)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGUSR2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_runs_at_once_in_what_is_interruptible() -> None:
    ran: list[str] = []

    def note(number: int, frame: Any) -> None:
        ran.append("handler")

    def call() -> str:
        signal.raise_signal(signal.SIGUSR1)
        ran.append("call")
        with Commit():
            signal.raise_signal(signal.SIGUSR1)
            ran.append("commit")
        ran.append("end")
        return "result"

    with handled(signal.SIGUSR1, by=note), Commit():
        signal.raise_signal(signal.SIGUSR1)
        ran.append("before")
        assert interruptible(call) == "result"
        signal.raise_signal(signal.SIGUSR1)
        ran.append("after")
    once = ["handler", "handler", "call", "commit", "handler", "end"]
    assert ran == ["before", *once, "after", "handler"]


def test_a_handler_that_a_closure_sets_stays_and_waits() -> None:
    """Also one that calls the handler that it found, as torch's data loaders do."""
    ran: list[str] = []

    def first(number: int, frame: Any) -> None:
        ran.append("first")

    def set_second() -> None:
        found = signal.getsignal(signal.SIGUSR1)
        assert callable(found)

        def second(number: int, frame: Any) -> None:
            ran.append("second")
            found(number, frame)

        signal.signal(signal.SIGUSR1, second)
        made.append(second)

    made: list[Any] = []
    before = signal.signal(signal.SIGUSR1, first)
    try:
        with Commit():
            interruptible(set_second)
            signal.raise_signal(signal.SIGUSR1)
            assert ran == []
        assert ran == ["second", "first"] and signal.getsignal(signal.SIGUSR1) is made[0]
        with Commit():
            signal.raise_signal(signal.SIGUSR1)
            assert len(ran) == 2
        assert ran == ["second", "first"] * 2
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_steps_while_handlers_run(seed: int) -> None:
    """Handlers run in the main thread: a step elsewhere is neither interrupted, nor keeps them waiting."""
    states = calm_run("QSADDLe", seed, 6)
    work = Work("QSADDLe", seed)
    ran: list[Any] = []
    inside, go_on = threading.Event(), threading.Event()

    def closure() -> torch.Tensor:
        inside.set()
        go_on.wait()
        return work.closure()

    def steps() -> None:
        for _ in range(6):
            work.optimizer.step(closure)

    thread = threading.Thread(target=steps)
    with handled(signal.SIGUSR1, by=note_in(ran)):
        thread.start()
        inside.wait()
        signal.raise_signal(signal.SIGUSR1)
        assert ran == [signal.SIGUSR1]
        with Commit():
            signal.raise_signal(signal.SIGUSR1)
            go_on.set()
            thread.join()
            assert len(ran) == 1
        assert len(ran) == 2
    assert equal(work.state(), states[-1])


def note_in(ran: list[Any]) -> Callable[[int, Any], None]:
    return lambda number, frame: ran.append(number)


def test_a_child_forked_in_a_block_has_its_handlers() -> None:
    """By a thread that is not in the block: in the child nobody ever leaves it."""
    ran: list[int] = []
    ended: list[int] = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGUSR1)
            os._exit(7 if ran else 1)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with handled(signal.SIGUSR1, by=note_in(ran)), Commit():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert ended == [7]
