"""Kernels that are wrong on purpose, each with what must catch it, and the right ones that they are made from."""

from collections.abc import Callable, Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

AGENTS, SLICES, COLUMNS = 3, 5, 32
# gives what a kernel computed of `[AGENTS, SLICES, COLUMNS]` numbers
Launch = Callable[[Tensor], Tensor]
# checks that a missing barrier or order does not show in
ORDERS = {"reversed", "shuffled", "woven"}
# how a norm goes wrong
BY_NUMBER, KEPT, RELAXED, UNMET = "by number", "kept", "relaxed", "unmet"


@triton.jit
def mix_control(x_ptr, out_ptr, agents, COLUMNS: tl.constexpr):
    """The mean of each agent and the next one."""
    agent, c = tl.program_id(0), tl.arange(0, COLUMNS)
    following = (agent + 1) % agents
    mine = tl.load(x_ptr + agent * COLUMNS + c)
    mixed = (mine + tl.load(x_ptr + following * COLUMNS + c)) / 2
    tl.store(out_ptr + agent * COLUMNS + c, mixed)


@triton.jit
def slices_control(x_ptr, h_ptr, agents, slices, BARRIERS: tl.constexpr, COLUMNS: tl.constexpr):
    """The same in place, one program for slices of all agents, by way of a scratch of its own."""
    c = tl.arange(0, COLUMNS)
    h_ptr += tl.program_id(0) * agents * COLUMNS
    for part in range(tl.program_id(0), slices, tl.num_programs(0)):
        place = x_ptr + part * COLUMNS + c
        for agent in range(agents):
            tl.store(h_ptr + agent * COLUMNS + c, tl.load(place + agent * slices * COLUMNS) / 2)
        if BARRIERS > 0:
            tl.debug_barrier()
        for agent in range(agents):
            # from the right, so that another thread has what is read
            following = (agent + 1) % agents * COLUMNS + COLUMNS - 1 - c
            mixed = tl.load(h_ptr + agent * COLUMNS + c) + tl.load(h_ptr + following)
            tl.store(place + agent * slices * COLUMNS, mixed)
        if BARRIERS > 1:
            tl.debug_barrier()


@triton.jit
def norm_control(
    x_ptr, partial_ptr, tickets_ptr, norm_ptr, slices, WRONG: tl.constexpr, COLUMNS: tl.constexpr
):
    """Squares of a row: programs add up slices, and the row's last one adds those."""
    agent, part = tl.program_id(0) // slices, tl.program_id(0) % slices
    x = tl.load(x_ptr + tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))
    tl.store(partial_ptr + tl.program_id(0), tl.sum(x * x, axis=0))
    if WRONG != "unmet":
        tl.debug_barrier()
    if WRONG == "relaxed":
        ticket = tl.atomic_add(tickets_ptr + agent, 1, sem="relaxed", scope="gpu")
    else:
        ticket = tl.atomic_add(tickets_ptr + agent, 1, sem="acq_rel", scope="gpu")
    if WRONG == "by number":
        ticket = part
    if ticket == slices - 1:
        total = 0.0
        for n in range(slices):
            total += tl.load(partial_ptr + agent * slices + n)
        tl.store(norm_ptr + agent, total)
        if WRONG != "kept":
            tl.store(tickets_ptr + agent, 0)


@triton.jit
def count_control(count_ptr):
    tl.store(count_ptr, tl.load(count_ptr) + 1)


@triton.jit
def shift_control(x_ptr, sum_ptr, BARRIER: tl.constexpr, COLUMNS: tl.constexpr):
    """Numbers less a scalar, which is set to zero for the next launch."""
    c = tl.arange(0, COLUMNS)
    first = tl.load(sum_ptr)
    if BARRIER:
        tl.debug_barrier()
    tl.store(sum_ptr, 0.0)
    tl.store(x_ptr + c, tl.load(x_ptr + c) - first)


def mixed(in_place: bool) -> Launch:
    def run(x: Tensor) -> Tensor:
        x = x[:, 0].clone()
        out = x if in_place else torch.empty_like(x)
        mix_control[(AGENTS,)](x, out, AGENTS, COLUMNS=COLUMNS)
        return out

    return run


def sliced(barriers: int) -> Launch:
    def run(x: Tensor) -> Tensor:
        x, h = x.clone(), torch.empty(2, AGENTS, COLUMNS)
        slices_control[(2,)](x, h, AGENTS, SLICES, BARRIERS=barriers, COLUMNS=COLUMNS)
        return x

    return run


def summed(wrong: str) -> Launch:
    # kept from launch to launch, as those of a stream are
    tickets = torch.zeros(AGENTS, dtype=torch.int32)

    def run(x: Tensor) -> Tensor:
        partial, norm = torch.empty(AGENTS, SLICES), torch.full((AGENTS,), -1.0)
        norm_control[(AGENTS * SLICES,)](
            x, partial, tickets, norm, SLICES, WRONG=wrong, COLUMNS=COLUMNS
        )
        return norm

    return run


def shifted(barrier: bool) -> Launch:
    def run(x: Tensor) -> Tensor:
        x = x[0, 0].clone()
        shift_control[(1,)](x, x[:1].clone(), BARRIER=barrier, COLUMNS=COLUMNS)
        return x

    return run


def counted(x: Tensor) -> Tensor:
    count = torch.zeros(1, dtype=torch.int32)
    count_control[(64,)](count)
    return count


RIGHT: Mapping[str, Launch] = {
    "mixing": mixed(False),
    "slices": sliced(2),
    "a norm": summed(""),
    "a scalar that is zeroed": shifted(True),
}
# the launch, what must catch it, and what cannot
WRONG: Mapping[str, tuple[Launch, set[str], set[str]]] = {
    "mixing in place": (mixed(True), {"footprints", "reversed"}, set()),
    "slices without a barrier": (sliced(0), {"footprints"}, ORDERS),
    "slices whose scratch is taken again": (sliced(1), {"footprints"}, ORDERS),
    "the last program by number": (summed(BY_NUMBER), {"footprints", "reversed"}, set()),
    "tickets that are not reset": (summed(KEPT), ORDERS, set()),
    "tickets that order nothing": (summed(RELAXED), {"footprints"}, ORDERS),
    "tickets that threads do not meet for": (summed(UNMET), {"footprints"}, ORDERS),
    "a scalar zeroed while threads load it": (shifted(False), {"footprints"}, ORDERS),
    "counting without an atomic": (counted, {"footprints", "woven"}, {"reversed", "shuffled"}),
}
