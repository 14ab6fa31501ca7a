"""What ranks do in tests: a small problem of each agent, stepped by any optimizer, on a stack or on a part of it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

import fastsaddle as fs
from fastsaddle.ranks import Placement
from tests.ranks.processes import Place

SHAPES = ((5, 7), (7,), (3,))
QUANTIZER, TOP_K = fs.compressors.StochasticQuantizer(8), fs.compressors.TopK(0.3)
MAKE: dict[str, Callable[..., fs.Optimizer]] = {
    "DSGD": lambda p, graph, n, **more: fs.DSGD(p, lr=0.05, topology=graph, **more),
    "QGM": lambda p, graph, n, **more: fs.QGM(p, lr=0.02, topology=graph, **more),
    "QSADDLe": lambda p, graph, n, **more: fs.QSADDLe(p, lr=0.02, topology=graph, **more),
    "GradientTracking": lambda p, graph, n, **more: fs.GradientTracking(
        p, lr=0.02, topology=graph, **more
    ),
    "NGM": lambda p, graph, n, **more: fs.NGM(p, lr=0.02, topology=graph, **more),
    "D2": lambda p, graph, n, **more: fs.D2(p, lr=0.02, topology=graph, consensus_step=0.5, **more),
    "QGM in 8 bits": lambda p, graph, n, **more: fs.QGM(
        p, lr=0.02, topology=graph, compressor=QUANTIZER, consensus_step=0.5, **more
    ),
    "QGM mixing first": lambda p, graph, n, **more: fs.QGM(
        p,
        lr=0.02,
        topology=graph,
        compressor=fs.Choco(QUANTIZER, order="mix-then-compress"),
        consensus_step=0.5,
        **more,
    ),
    "QSADDLe of top-k": lambda p, graph, n, **more: fs.QSADDLe(
        p, lr=0.02, topology=graph, compressor=TOP_K, consensus_step=0.3, **more
    ),
    "LocalSGD": lambda p, graph, n, **more: fs.LocalSGD(p, lr=0.02, agents=n, **more),
    "DPPF": lambda p, graph, n, **more: fs.DPPF(p, lr=0.02, agents=n, **more),
    "EASGD": lambda p, graph, n, **more: fs.EASGD(p, lr=0.02, agents=n, **more),
}


class Problem:
    """Models of some agents, and a loss of each that depends on its model and its own numbers.

    Args:
        agents: how many there are in all.
        part: those that are here.
        stacked: whether parameters are `[agents here, ...]`; else they are the ordinary ones of a single agent.
    """

    def __init__(self, agents: int, part: slice, stacked: bool = True) -> None:
        generator = torch.Generator().manual_seed(agents)
        starts = [torch.randn(agents, *shape, generator=generator)[part] for shape in SHAPES]
        targets = [torch.randn(agents, *shape, generator=generator)[part] for shape in SHAPES]
        one = slice(None) if stacked else 0
        self.params = [torch.nn.Parameter(start[one].clone()) for start in starts]
        self._targets = [target[one] for target in targets]

    def closure(self, optimizer: fs.Optimizer) -> Callable[[], torch.Tensor]:
        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            pairs = zip(self.params, self._targets, strict=True)
            loss = sum(((p - t) ** 2).sum() + 0.01 * (p**3).sum() for p, t in pairs)
            loss.backward()
            return loss.detach()

        return evaluate

    def rows(self, agents: int) -> torch.Tensor:
        """The models, `[agents, numbers]`."""
        return torch.cat([p.detach().reshape(agents, -1) for p in self.params], 1).clone()


def here_of(transport: Any, counts: tuple[int, ...]) -> tuple[Placement, slice]:
    here = Placement(counts, transport)
    return here, slice(here.first_agent, here.first_agent + here.agents)


def told(optimizer: fs.Optimizer, problem: Problem) -> dict[str, Any]:
    """All that is to be equal to the bit, and what was sent."""
    states = {name: rows.clone() for name, rows in optimizer.flat_state.items()}
    return {
        "x": problem.rows(optimizer.agents),
        "states": states,
        "sent": optimizer.bytes_sent,
        "wire": optimizer.bytes_on_wire,
        "columns": optimizer.model_columns.stop,
    }


def on_a_stack(name: str, graph: str, agents: int, steps: int) -> dict[str, Any]:
    problem = Problem(agents, slice(0, agents))
    optimizer = MAKE[name](problem.params, graph, agents)
    for _ in range(steps):
        optimizer.step(problem.closure(optimizer))
    return told(optimizer, problem)


def train(
    place: Place, cases: list[tuple[str, str, tuple[int, ...]]], steps: int, overlap: Any = "off"
) -> list[Any]:
    """One run after the other of (optimizer, graph, counts), all over the default group."""
    found = []
    for name, graph, counts in cases:
        here = fs.place(counts=counts, timeout=timedelta(seconds=20), overlap=overlap)
        part = slice(here.first_agent, here.first_agent + here.agents)
        problem = Problem(here.all_agents, part)
        optimizer = MAKE[name](problem.params, graph, here.all_agents, placement=here)
        for _ in range(steps):
            optimizer.step(problem.closure(optimizer))
        found.append(told(optimizer, problem))
    return found


def one_agent_a_rank(place: Place, kind: str, steps: int) -> Any:
    """An ordinary module's parameters, over a process group or a mesh of one dimension."""
    if kind == "mesh":
        group: Any = dist.device_mesh.init_device_mesh("cpu", (place.ranks,))
    else:
        group = dist.new_group(range(place.ranks))
    problem = Problem(place.ranks, slice(place.rank, place.rank + 1), stacked=False)
    optimizer = fs.QSADDLe(problem.params, lr=0.02, topology="ring", process_group=group)
    for _ in range(steps):
        optimizer.step(problem.closure(optimizer))
    return told(optimizer, problem)


def two_groups(place: Place, steps: int) -> Any:
    """Halves of the ranks, each a network of its own."""
    half = place.ranks // 2
    groups = [dist.new_group(range(first, first + half)) for first in (0, half)]
    mine = groups[place.rank // half]
    number = place.rank % half
    problem = Problem(half, slice(number, number + 1), stacked=False)
    optimizer = fs.QGM(problem.params, lr=0.02, topology="ring", process_group=mine)
    for _ in range(steps):
        optimizer.step(problem.closure(optimizer))
    return told(optimizer, problem)


def differing(place: Place) -> None:
    """One rank has another learning rate."""
    here = fs.place(place.ranks, timeout=timedelta(seconds=10))
    problem = Problem(place.ranks, slice(place.rank, place.rank + 1))
    fs.QGM(problem.params, lr=0.2 if place.rank == 1 else 0.1, topology="ring", placement=here)


class Fault(Exception):
    """Raised on purpose."""


def faulty(
    place: Place,
    name: str,
    graph: str,
    counts: tuple[int, ...],
    culprit: int,
    how: str,
    at: int,
    timeout: float,
    seconds: float = 0.0,
    second: bool = False,
) -> Any:
    """Steps until one rank fails.

    Args:
        place: given.
        name, graph, counts: the optimizer.
        culprit: the rank that fails.
        how: "kill", "stop", "pause" (two seconds longer than the timeout), "raise", "nan" or "leave".
        at: the step in which it does; where `seconds` is positive, a timer kills or stops it some time after that one.
        timeout: of messages.
        seconds: of that timer.
        second: whether it is in a step's second gradient that it fails.
    """
    here = fs.place(counts=counts, timeout=timedelta(seconds=timeout))
    part = slice(here.first_agent, here.first_agent + here.agents)
    problem = Problem(here.all_agents, part)
    optimizer = MAKE[name](problem.params, graph, here.all_agents, placement=here)
    evaluate, calls = problem.closure(optimizer), 0
    signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = evaluate()
        is_due = place.rank == culprit and step == at and calls == 1 + second
        if is_due and how in signals and not seconds:
            place.fail(signals[how])
        if is_due and how == "pause":
            waker = f"sleep {timeout + 2}; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", waker])
            place.fail(signal.SIGSTOP)
        if is_due and how == "raise":
            place.fail()
            raise Fault("on purpose")
        if is_due and how == "nan":
            place.fail()
            problem.params[0].grad[-1].view(-1)[0] = torch.nan
        return loss

    step = 0
    while True:
        if place.rank == culprit and step == at and seconds and how in signals:
            arm(place, signals[how], seconds)
        if place.rank == culprit and step == at and how == "leave":
            place.fail()
            return "left"
        before, calls = problem.rows(here.agents), 0
        try:
            optimizer.step(closure)
        except (Exception, KeyboardInterrupt) as error:
            kept = torch.equal(before, problem.rows(here.agents))
            return judged(optimizer, error, kept, step)
        step += 1


def arm(place: Place, number: int, seconds: float) -> None:
    """A signal to this process from a thread of its own, wherever the other threads are by then."""

    def strike() -> None:
        place.fail(number)

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()


def judged(optimizer: fs.Optimizer, error: BaseException, kept: bool, step: int) -> dict[str, Any]:
    """What was raised, and what a further step then raises."""
    at = time.monotonic()
    again: BaseException | None = None
    try:
        optimizer.step(lambda: 0 / 0)
    except Exception as later:
        again = later
    return {"error": error, "again": again, "kept": kept, "step": step, "raised": at}
