"""What changes between steps must change on all ranks alike, and a step that all refuse can be put right."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.optimizer.errors import NonFiniteGradientError
from fastsaddle.ranks import PeerError, Placement, ThreadTransport
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.over_threads import closure_of

pytestmark = pytest.mark.usefixtures("one_thread")
# in a ring of five the farthest ranks are two apart
COUNTS = (1, 2, 1, 1, 2)
TOPK = fs.compressors.TopK(0.3)
MAKE: dict[str, Callable[..., Any]] = {
    "QSADDLe": partial(fs.QSADDLe, lr=0.05, topology="ring"),
    "compressed": partial(fs.QGM, lr=0.05, topology="ring", compressor=TOPK, consensus_step=0.3),
    "NGM": partial(fs.NGM, lr=0.05, topology="ring"),
    "tracking": partial(fs.GradientTracking, lr=0.05, topology="ring"),
    "LocalSGD": partial(fs.LocalSGD, lr=0.05, agents=sum(COUNTS), period=3),
    "often": partial(
        fs.Optimizer,
        lr=0.05,
        communicator=fs.comm.Gossip("ring", every=2),
        rule=fs.rules.Momentum(),
    ),
}


OVERLAPPED = ("tracking", "NGM")


class Agents:
    """A rank's agents after two steps, and what is done with them next."""

    def __init__(self, name: str, transport: ThreadTransport, seed: int) -> None:
        self.here = Placement(COUNTS, transport, "auto" if name in OVERLAPPED else "off")
        draw = torch.Generator().manual_seed(seed)
        part = slice(self.here.first_agent, self.here.first_agent + self.here.agents)
        start = [
            torch.randn(sum(COUNTS), *shape, generator=draw)[part]
            for shape in ((40,), (3, 2), (9,))
        ]
        self.a, self.b, self.more = (nn.Parameter(x.clone()) for x in start)
        self.optimizer = MAKE[name]([self.a, self.b], placement=self.here)
        self.saved = copy.deepcopy(self.optimizer.state_dict())
        self.step(2)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.optimizer.step(closure_of(self.optimizer, self.here.first_agent, []))

    @property
    def x(self) -> torch.Tensor:
        rows = [p.detach().reshape(self.here.agents, -1) for p in (self.a, self.b, self.more)]
        return torch.cat(rows, 1)

    def add(self, size: int = 1) -> None:
        own = [self.more, nn.Parameter(torch.zeros(self.here.agents, 3))][:size]
        self.optimizer.add_param_group({"params": own})

    def freeze(self) -> None:
        self.b.requires_grad_(False)

    def load(self) -> None:
        self.optimizer.load_state_dict(self.saved)


def in_threads(name: str, work: Callable[[Agents], Any], seed: int) -> list[Any]:
    return run_in_threads(len(COUNTS), lambda t: work(Agents(name, t, seed)), timeout=5)


def paired(cases: Iterable[str]) -> list[tuple[str, str]]:
    """The first method with all cases, and each other one with one of them."""
    first, *others = MAKE
    return [*((first, case) for case in cases), *zip(others, cycle(cases), strict=False)]


CHANGES = {
    "add": "the number of parameter groups is 2 there, not everywhere",
    "freeze": "parameter 1 of parameter group 0 is frozen there, not everywhere",
    "load": "a state was loaded there, not everywhere",
}


@pytest.mark.parametrize(("name", "what"), paired(CHANGES))
def test_a_change_on_some_ranks_alone_is_told_on_all(name: str, what: str, seed: int) -> None:
    for changed in ((2,), (0, 1, 3, 4)):

        def work(agents: Agents, changed: tuple[int, ...] = changed) -> bool:
            if agents.here.rank in changed:
                getattr(agents, what)()
            before = agents.x.clone()
            with pytest.raises(PeerError) as first:
                agents.step()
                # others may have done steps without an exchange
                assert agents.here.rank not in changed
                while True:
                    before = agents.x.clone()
                    agents.step()
            assert torch.equal(agents.x, before)
            with pytest.raises(PeerError):
                agents.step()
            return first.value.rank in changed and CHANGES[what] in str(first.value)

        assert in_threads(name, work, seed) == [True] * len(COUNTS)


@pytest.mark.parametrize(("name", "what"), paired(CHANGES))
def test_a_change_on_all_ranks_passes(name: str, what: str, seed: int) -> None:
    def work(agents: Agents) -> torch.Tensor:
        getattr(agents, what)()
        agents.step(4)
        assert agents.optimizer.gathered().isfinite().all()
        return agents.x

    parts = in_threads(name, work, seed)
    assert all(isinstance(part, torch.Tensor) for part in parts), parts


@pytest.mark.parametrize("name", MAKE)
def test_changes_that_differ_are_told_and_can_be_put_right(name: str, seed: int) -> None:
    def work(agents: Agents) -> str:
        if agents.here.rank == 3:
            agents.freeze()
        else:
            agents.load()
        before = agents.x.clone()
        with pytest.raises(ValueError, match="must be equal on all ranks") as told:
            agents.step()
        assert torch.equal(agents.x, before)
        agents.freeze()
        agents.load()
        agents.step(3)
        return str(told.value)

    told = in_threads(name, work, seed)
    assert told == [
        "whether a state was loaded since the last step must be equal on all ranks, "
        "got True on ranks 0, 1, 2, 4 and False on rank 3"
    ] * len(COUNTS)


def test_groups_of_other_shapes_and_states_of_other_steps_are_told(seed: int) -> None:
    def grown(agents: Agents) -> None:
        agents.add(2 if agents.here.rank == 1 else 1)
        agents.step()

    def loaded(agents: Agents) -> None:
        # the counter is part of what is loaded
        agents.optimizer.load_state_dict(
            agents.saved if agents.here.rank == 4 else agents.optimizer.state_dict()
        )
        agents.step()

    for work, said in (
        (grown, "number of parameters of parameter group 1 .* 1 on ranks .* and 2 on rank 1"),
        (loaded, "number of steps done must .* 2 on ranks 0, 1, 2, 3 and 0 on rank 4"),
    ):
        for error in in_threads("compressed", work, seed):
            with pytest.raises(ValueError, match=said):
                raise error


@pytest.mark.parametrize("call", ["gathered", "synchronize"])
def test_a_change_is_found_before_rows_are_gathered(call: str, seed: int) -> None:
    def work(agents: Agents) -> None:
        if agents.here.rank == 1:
            agents.add()
        getattr(agents.optimizer, call)()

    for error in in_threads("LocalSGD", work, seed):
        assert isinstance(error, PeerError) and error.rank == 1, error
        assert CHANGES["add"] in str(error)


class Fault(Exception):
    """Raised on purpose."""


def bad_rate(agents: Agents) -> None:
    agents.optimizer.param_groups[0]["lr"] = -1.0
    try:
        agents.step()
    finally:
        agents.optimizer.param_groups[0]["lr"] = 0.05


def not_a_number(agents: Agents) -> None:
    def closure() -> None:
        closure_of(agents.optimizer, agents.here.first_agent, [])()
        agents.a.grad[-1].view(-1)[0] = torch.nan

    agents.optimizer.step(closure)


def fault(agents: Agents) -> None:
    def closure() -> None:
        raise Fault(f"on rank {agents.here.rank}")

    agents.optimizer.step(closure)


def wrong_call(agents: Agents) -> None:
    agents.optimizer.step(
        closure_of(agents.optimizer, agents.here.first_agent, []), closure_passes=3
    )


REFUSED: dict[str, tuple[Callable[[Agents], None], type[Exception]]] = {
    "rate": (bad_rate, ValueError),
    "nan": (not_a_number, NonFiniteGradientError),
    "closure": (fault, Fault),
    "call": (wrong_call, ValueError),
}


@pytest.mark.parametrize(("name", "how"), paired(REFUSED))
def test_what_all_ranks_refuse_can_be_put_right(name: str, how: str, seed: int) -> None:
    refused, kind = REFUSED[how]

    def work(agents: Agents, disturbed: bool) -> torch.Tensor:
        for _ in range(3):
            if disturbed:
                before = agents.x.clone()
                with pytest.raises(kind):
                    refused(agents)
                assert torch.equal(agents.x, before)
            agents.step()
        return agents.x

    calm, found = (in_threads(name, partial(work, disturbed=d), seed) for d in (False, True))
    for x, wanted in zip(found, calm, strict=True):
        assert isinstance(x, torch.Tensor), x
        assert torch.equal(x, wanted)


@pytest.mark.parametrize(("name", "how"), paired(REFUSED))
def test_what_some_refuse_ends_the_run_for_all(name: str, how: str, seed: int) -> None:
    refused, kind = REFUSED[how]
    for culprits in ((3,), (0, 3)):

        def work(agents: Agents, culprits: tuple[int, ...] = culprits) -> bool:
            if agents.here.rank in culprits:
                with pytest.raises(kind):
                    refused(agents)
            with pytest.raises(PeerError) as first:
                agents.step(4)
            return first.value.rank in culprits and kind.__name__ in str(first.value)

        assert in_threads(name, work, seed) == [True] * len(COUNTS)


def test_a_later_failure_is_not_that_which_all_have_put_right(seed: int) -> None:
    def work(agents: Agents) -> tuple[int, str]:
        with pytest.raises(ValueError, match="lr must be"):
            bad_rate(agents)
        agents.step()
        if agents.here.rank == 2:
            agents.here.transport.close()  # type: ignore[attr-defined]
            return 2, ""
        with pytest.raises(PeerError) as told:
            agents.step(4)
        return told.value.rank, told.value.cause

    told = in_threads("QSADDLe", work, seed)
    assert [rank for rank, _ in told] == [2] * len(COUNTS), told
    assert {cause for rank, cause in told if cause} == {"connection closed"}


def test_ranks_that_refuse_other_steps_cannot_go_on(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(agents: Agents) -> bool:
        # they have not met yet
        if agents.here.rank:
            agents.optimizer.step(closure_of(agents.optimizer, agents.here.first_agent, []))
        with pytest.raises((ValueError, PeerError)):
            bad_rate(agents)
        with pytest.raises(PeerError):
            agents.step()
        return True

    monkeypatch.setitem(
        MAKE, "LocalSGD", partial(fs.LocalSGD, lr=0.05, agents=sum(COUNTS), period=9)
    )
    assert in_threads("LocalSGD", work, seed) == [True] * len(COUNTS)
