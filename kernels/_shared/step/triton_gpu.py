"""The arithmetic of the gossip ops as Triton functions, in the order of reference.py; compile without fusion."""

import triton
import triton.language as tl


@triton.jit
def is_finite(value):
    """Neither infinite nor NaN: a subtraction of itself gives zero only then."""
    return value - value == 0.0


@triton.jit
def local_values(
    start,
    g,
    momentum,
    lr,
    weight_decay,
    beta,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
):
    """(h, momentum after a local-momentum step) of one block."""
    if MAXIMIZE:
        # not -g: Triton 3.6 makes that 0 - g, which loses the sign of zero
        g = g * -1.0
    g = g + weight_decay * start
    update = g
    moved = momentum
    if KIND != 0:
        moved = beta * momentum + g
        update = moved
        if NESTEROV:
            update = g + beta * moved
    return start - lr * update, moved


@triton.jit
def quasi_global_values(before, after, momentum, lr, mu):
    """mu momentum + (1 - mu) (before - after) / lr, or momentum itself where lr = 0."""
    moved = mu * momentum + (1.0 - mu) * tl.div_rn(before - after, lr + tl.zeros_like(before))
    return tl.where(lr != 0.0, moved, momentum)


@triton.jit
def rows_of(h, named, AGENTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row `named[i]` of h `[AGENTS, COLUMNS]` as row i."""
    if AGENTS <= 64:
        return tl.gather(h, tl.broadcast_to(named[:, None], (AGENTS, COLUMNS)), axis=0)
    # along the agent axis a gather keeps each column in one warp: AGENTS / 32 shuffles a number, and spills.
    # over the flat block it goes through shared memory
    place = named[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    flat = tl.reshape(h, (AGENTS * COLUMNS,))
    taken = tl.gather(flat, tl.reshape(place, (AGENTS * COLUMNS,)), axis=0)
    return tl.reshape(taken, (AGENTS, COLUMNS))
