"""Wrappers of training loops, which hold a copy of an optimizer's `__dict__`, and the plain loop have the same bits."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.optimizers.interrupted_steps import AGENTS, CASES, Work
from tests.optimizers.optimizer_snapshots import equal, leaves

pytestmark = pytest.mark.usefixtures("one_thread")
# those whose two passes may be made by hand
BY_HAND = ("QSADDLe", "QSADDLe 8 bits", "DSADDLe LookSAM", "DSADDLe ESAM sign", "SAM x D2 top-k")


class Wrapper:
    """An optimizer's attributes as they were when it was wrapped, under a class of its own: as Lightning does."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__ = {k: v for k, v in optimizer.__dict__.items() if k not in ("step",)}
        method = type(optimizer)
        self.__class__ = type("Wrapped" + method.__name__, (type(self), method), {})
        self._optimizer = optimizer


class PassingWrapper(Wrapper):
    """One that lets the optimizer itself make the steps."""

    def step(self, closure: Any = None, **others: Any) -> Any:
        return self._optimizer.step(closure, **others)


class Loop:
    """A training loop of an optimizer and, perhaps, its wrapper; each call is made by one of them, at random."""

    def __init__(self, case: str, seed: int, wrapper: type[Wrapper] | None) -> None:
        self.work = Work(case, seed)
        own = self.work.optimizer
        self.actors = [own] if wrapper is None else [own, wrapper(own)]
        self.who = random.Random(seed)

    @property
    def actor(self) -> Any:
        return self.who.choice(self.actors)

    def closure(self) -> torch.Tensor:
        self.actor.zero_grad()
        loss = self.work.loss()
        loss.backward()
        return loss

    def by_closure(self) -> None:
        self.actor.step(self.closure)

    def by_phases(self) -> None:
        self.closure()
        if self.actor.passes == 2:
            self.actor.perturb()
            assert all(actor.perturbed for actor in self.actors)
            self.closure()
        self.actor.step()

    def by_customary_names(self) -> None:
        self.closure()
        if self.actor.passes == 2:
            self.actor.first_step(zero_grad=True)
            self.closure()
            self.actor.second_step(zero_grad=True)
        else:
            self.actor.step()

    def perturbed_in_vain(self) -> None:
        if self.actor.passes == 2:
            self.closure()
            self.actor.perturb()
            self.actor.restore()

    def move(self) -> None:
        p = self.work.parameters[1]
        p.data = p.data.clone()

    def change_rate(self) -> None:
        self.actor.param_groups[1]["lr"] *= 0.5

    def reload(self) -> None:
        state = copy.deepcopy(self.actor.state_dict())
        self.by_closure()
        self.actor.load_state_dict(state)

    def grow(self) -> None:
        if len(self.work.parameters) < 5:
            new = nn.Parameter(torch.full((AGENTS, 3, 7), 0.5))
            self.actor.add_param_group({"params": [new], "lr": 0.3})
            self.work.parameters.append(new)
            self.work.pulls.append(torch.zeros(()))

    def states(self) -> list[Any]:
        """All that is known, through each of them."""
        found = []
        for actor in self.actors:
            saved, buffers = actor.state_dict(), (actor.flat_state, actor.scalar_state)
            counted = int(actor.rounds), actor.bytes_sent, actor.perturbed, actor.passes
            found.append([*leaves([self.work.parameters, saved, buffers, counted])])
        return found


ANYWHERE = (Loop.by_closure, Loop.move, Loop.change_rate, Loop.reload, Loop.grow)
PHASES = (Loop.by_phases, Loop.by_customary_names, Loop.perturbed_in_vain)


@pytest.mark.parametrize("wrapper", [Wrapper, PassingWrapper])
@pytest.mark.parametrize("case", CASES)
def test_any_order_of_calls(case: str, wrapper: type[Wrapper], seed: int) -> None:
    plain, wrapped = Loop(case, seed, None), Loop(case, seed, wrapper)
    parts: tuple[Callable[[Loop], None], ...] = ANYWHERE + (PHASES if case in BY_HAND else ())
    draw = random.Random(seed)
    order = [*draw.sample(parts, len(parts)), *draw.choices(parts, k=12)]
    print([part.__name__ for part in order])
    for part in order:
        part(plain)
        part(wrapped)
        (expected,) = plain.states()
        for found in wrapped.states():
            assert equal(found, expected), part.__name__
