"""The arithmetic of the gossip rooms as Triton functions, in the order of _step.py; compile without fusion."""

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
