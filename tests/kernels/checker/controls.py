"""Kernels that are wrong on purpose, one for each kind of mistake; the checker must catch all of them."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

AGENTS, COLUMNS, SLICES = 5, 32, 3


@triton.jit
def in_place_kernel(x_ptr, agents, COLUMNS: tl.constexpr):
    # a ring's mean, written where others still read
    agent = tl.program_id(0)
    c = tl.arange(0, COLUMNS)
    own = tl.load(x_ptr + agent * COLUMNS + c)
    after = tl.load(x_ptr + (agent + 1) % agents * COLUMNS + c)
    tl.store(x_ptr + agent * COLUMNS + c, 0.5 * (own + after))


@triton.jit
def no_barrier_kernel(x_ptr, scratch_ptr, out_ptr, COLUMNS: tl.constexpr):
    # a slice that other threads read back at once
    agent = tl.program_id(0)
    c = tl.arange(0, COLUMNS)
    tl.store(scratch_ptr + agent * COLUMNS + c, tl.load(x_ptr + agent * COLUMNS + c))
    turned = tl.load(scratch_ptr + agent * COLUMNS + COLUMNS - 1 - c)
    tl.store(out_ptr + agent * COLUMNS + c, turned)


@triton.jit
def last_by_number_kernel(
    x_ptr, partial_ptr, norm_ptr, SLICES: tl.constexpr, COLUMNS: tl.constexpr
):
    # the last program by number need not be the last to end
    agent, part = tl.program_id(0) // SLICES, tl.program_id(0) % SLICES
    c = tl.arange(0, COLUMNS)
    x = tl.load(x_ptr + (agent * SLICES + part) * COLUMNS + c)
    tl.store(partial_ptr + agent * SLICES + part, tl.sum(x * x, axis=0))
    tl.debug_barrier()
    if part == SLICES - 1:
        total = 0.0
        for s in tl.static_range(SLICES):
            total += tl.load(partial_ptr + agent * SLICES + s)
        tl.store(norm_ptr + agent, total)


@triton.jit
def never_reset_kernel(
    x_ptr, partial_ptr, tickets_ptr, norm_ptr, SLICES: tl.constexpr, COLUMNS: tl.constexpr
):
    # right once, and never again
    agent, part = tl.program_id(0) // SLICES, tl.program_id(0) % SLICES
    c = tl.arange(0, COLUMNS)
    x = tl.load(x_ptr + (agent * SLICES + part) * COLUMNS + c)
    tl.store(partial_ptr + agent * SLICES + part, tl.sum(x * x, axis=0))
    tl.debug_barrier()
    ticket = tl.atomic_add(tickets_ptr + agent, 1, sem="acq_rel", scope="gpu")
    if ticket == SLICES - 1:
        total = 0.0
        for s in tl.static_range(SLICES):
            total += tl.load(partial_ptr + agent * SLICES + s)
        tl.store(norm_ptr + agent, total)


def in_place(x: torch.Tensor) -> torch.Tensor:
    x = x[:, :COLUMNS].contiguous()
    in_place_kernel[(AGENTS,)](x, AGENTS, COLUMNS=COLUMNS)
    return x


def no_barrier(x: torch.Tensor) -> torch.Tensor:
    x, out = x[:, :COLUMNS].contiguous(), torch.empty(AGENTS, COLUMNS)
    no_barrier_kernel[(AGENTS,)](x, torch.empty_like(out), out, COLUMNS=COLUMNS)
    return out


def last_by_number(x: torch.Tensor) -> torch.Tensor:
    norm, partial = torch.empty(AGENTS), torch.zeros(AGENTS, SLICES)
    last_by_number_kernel[(AGENTS * SLICES,)](x, partial, norm, SLICES=SLICES, COLUMNS=COLUMNS)
    return norm


TICKETS = torch.zeros(AGENTS, dtype=torch.int32)


def never_reset(x: torch.Tensor) -> torch.Tensor:
    norm, partial = torch.zeros(AGENTS), torch.zeros(AGENTS, SLICES)
    never_reset_kernel[(AGENTS * SLICES,)](
        x, partial, TICKETS, norm, SLICES=SLICES, COLUMNS=COLUMNS
    )
    return norm


# name -> its launch on `[AGENTS, SLICES * COLUMNS]` numbers, which gives what it computed
CONTROLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mixing in place": in_place,
    "slices without a barrier": no_barrier,
    "the last program by number": last_by_number,
    "tickets that are not reset": never_reset,
}
