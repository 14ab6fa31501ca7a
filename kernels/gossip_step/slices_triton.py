"""gossip_step for stacks that no program holds whole: programs walk over slices, with h of one slice in L2.

A program owns a slice of columns of all agents. It writes their h into a scratch of its own, waits for its threads,
and mixes from there, so that h never has to reach memory and models may be overwritten in place: no other program reads
these columns. Programs stay and take the next slice, so the scratch is as large as they are many.
"""

import torch
import triton
import triton.language as tl

from fastsaddle.kernels._shared.bfloat16.triton_gpu import kept, widened
from fastsaddle.kernels._shared.philox.triton_gpu import MOMENTUM
from fastsaddle.kernels._shared.shapes.devices import Device, device_of
from fastsaddle.kernels._shared.step.triton_gpu import is_finite, local_values, quasi_global_values


@triton.jit(do_not_specialize=["seed", "first_agent"])
def gossip_step_slices_kernel(
    x_ptr,
    start_ptr,
    g_ptr,
    momentum_ptr,
    neighbors_ptr,
    weights_ptr,
    lr_ptr,
    weight_decay_ptr,
    beta_ptr,
    mu_ptr,
    norm_ptr,
    step_ptr,
    x_stride,
    start_stride,
    g_stride,
    momentum_stride,
    lr_step,
    weight_decay_step,
    beta_step,
    mu_step,
    step_step,
    agents,
    columns,
    width,
    seed,
    first_agent,
    h_ptr,
    slices,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    GATED: tl.constexpr,
    SPREAD_KEY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)[None, :]
    h_ptr += tl.program_id(0).to(tl.int64) * agents * COLUMNS
    for part in range(tl.program_id(0), slices, tl.num_programs(0)):
        c = part * COLUMNS + column
        for begin in range(0, agents, ROWS):
            each = begin + tl.arange(0, ROWS)
            # other for rows that do not exist, so that it takes no scalar registers: AMD's would spill
            key = seed + (each >= agents)[:, None].to(tl.int64) if SPREAD_KEY else seed
            i = each[:, None]
            agent = i < agents
            inside = agent & (c < columns)
            row = i.to(tl.int64)
            start = tl.load(start_ptr + row * start_stride + c, mask=inside, other=0.0)
            g = tl.load(
                g_ptr + row * g_stride + c, mask=inside, other=0.0, eviction_policy="evict_first"
            )
            momentum = start
            if KIND != 0:
                momentum = tl.load(momentum_ptr + row * momentum_stride + c, mask=inside, other=0.0)
                momentum = widened(momentum)
            h, moved = local_values(
                start,
                g,
                momentum,
                tl.load(lr_ptr + i * lr_step, mask=agent, other=0.0),
                tl.load(weight_decay_ptr + i * weight_decay_step, mask=agent, other=0.0),
                tl.load(beta_ptr + i * beta_step, mask=agent, other=0.0),
                KIND,
                NESTEROV,
                MAXIMIZE,
            )
            if GATED:
                steps = is_finite(tl.load(norm_ptr + i, mask=agent, other=0.0))
                h = tl.where(steps, h, start)
                moved = tl.where(steps, moved, momentum)
            tl.store(h_ptr + row * COLUMNS + column, h, mask=agent, eviction_policy="evict_last")
            if KIND == 1:
                step = tl.load(step_ptr + each * step_step, mask=each < agents, other=0)
                at, place = first_agent + each, part * COLUMNS + each * 0
                moved = kept(moved, momentum_ptr, key, at, step, place, MOMENTUM)
                tl.store(
                    momentum_ptr + row * momentum_stride + c,
                    moved,
                    mask=inside,
                    eviction_policy="evict_first",
                )
        tl.debug_barrier()
        for begin in range(0, agents, ROWS):
            each = begin + tl.arange(0, ROWS)
            # other for rows that do not exist, so that it takes no scalar registers: AMD's would spill
            key = seed + (each >= agents)[:, None].to(tl.int64) if SPREAD_KEY else seed
            i = each[:, None]
            agent = i < agents
            inside = agent & (c < columns)
            row = i.to(tl.int64)
            mixed = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
            next_neighbor = tl.load(neighbors_ptr + row * width, mask=agent, other=-1)
            next_weight = tl.load(weights_ptr + row * width, mask=agent, other=0.0)
            for k in range(width):
                neighbor, weight = next_neighbor, next_weight
                # asked for while the rows of this one come; of the last, itself once more
                following = row * width + tl.minimum(k + 1, width - 1)
                next_neighbor = tl.load(neighbors_ptr + following, mask=agent, other=-1)
                next_weight = tl.load(weights_ptr + following, mask=agent, other=0.0)
                named = neighbor >= 0
                # a wrong list must not read outside: nothing can be raised from here
                neighbor = tl.minimum(tl.maximum(neighbor, 0), agents - 1)
                term = weight * tl.load(h_ptr + neighbor * COLUMNS + column, mask=named, other=0.0)
                # not zero plus the first term, which would lose the sign of zero
                mixed = tl.where(named, tl.where(k == 0, term, mixed + term), mixed)
            if KIND == 2:
                start = tl.load(start_ptr + row * start_stride + c, mask=inside, other=0.0)
                momentum = tl.load(momentum_ptr + row * momentum_stride + c, mask=inside, other=0.0)
                momentum = widened(momentum)
                lr = tl.load(lr_ptr + i * lr_step, mask=agent, other=0.0)
                mu = tl.load(mu_ptr + i * mu_step, mask=agent, other=0.0)
                moved = quasi_global_values(start, mixed, momentum, lr, mu)
                if GATED:
                    steps = is_finite(tl.load(norm_ptr + i, mask=agent, other=0.0))
                    moved = tl.where(steps, moved, momentum)
                step = tl.load(step_ptr + each * step_step, mask=each < agents, other=0)
                at, place = first_agent + each, part * COLUMNS + each * 0
                moved = kept(moved, momentum_ptr, key, at, step, place, MOMENTUM)
                tl.store(
                    momentum_ptr + row * momentum_stride + c,
                    moved,
                    mask=inside,
                    eviction_policy="evict_first",
                )
            tl.store(x_ptr + row * x_stride + c, mixed, mask=inside, eviction_policy="evict_first")
        # the next slice overwrites h
        tl.debug_barrier()


def programs_at_once(device: Device, resident: int, held: int) -> int:
    """How many programs walk: about as many as L2 holds the slices of, the same number on each multiprocessor.

    Args:
        device: that they run on. resident: of a multiprocessor at most. held: bytes that a program's slice takes.
    """
    of_one_each = held * device.multiprocessors
    # to the nearest: a slice that L2 just misses costs less than a multiprocessor with nothing to do
    fitting = (2 * device.cached + of_one_each) // (2 * of_one_each)
    return device.multiprocessors * max(1, min(resident, fitting))


def walk(
    x: torch.Tensor, moments: torch.Tensor, kind: int, columns: int, resident: int
) -> tuple[torch.Tensor, int]:
    """Scratch for h, `[programs, agents, columns]` float32, and how many slices these programs walk over.

    Only quasi-global momentum reads x and the momentum a second time; the gradients and all that is stored for good are
    told to leave L2 first, and h last.
    """
    agents, width = x.shape
    slices = triton.cdiv(width, columns)
    again = x.element_size() + moments.element_size() if kind == 2 else 0
    held = agents * columns * (torch.float32.itemsize + again)
    programs = min(slices, programs_at_once(device_of(x.device), resident, held))
    return torch.empty(programs, agents, columns, dtype=torch.float32, device=x.device), slices
