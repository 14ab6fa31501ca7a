"""Random bits in Triton; the twin of reference.py."""

import triton
import triton.language as tl

from fastsaddle.kernels._shared.philox import reference as philox_bits

ROUNDING = tl.constexpr(philox_bits.ROUNDING)
MOMENTUM, COPIES = tl.constexpr(philox_bits.MOMENTUM), tl.constexpr(philox_bits.COPIES)


@triton.jit
def halves(like, seed, agent, step, begin, STREAM: tl.constexpr):
    """16 random bits for each element of `like`, uint32: one Philox block serves eight.

    like is `[COLUMNS]`, with one agent, step and first column; or `[ROWS, COLUMNS]`, with those of each row, `[ROWS]`.
    """
    BLOCKS: tl.constexpr = like.shape[-1] // 8
    if len(like.shape) == 1:
        block = begin // 8 + tl.arange(0, BLOCKS)
    else:
        block = (begin // 8)[:, None] + tl.arange(0, BLOCKS)[None, :]
        agent, step = agent[:, None], step[:, None]
    w0, w1, w2, w3 = tl.philox(seed, block, agent.to(tl.int32), step.to(tl.int32), STREAM)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), like.shape)
