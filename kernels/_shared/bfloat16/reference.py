"""State kept as bfloat16: widened exactly, computed with as float32, rounded stochastically where it is written.

    bits = the float32 number's bits + 16 random bits;   bfloat16 = the high 16 of them

so that the expected value is the number itself: a change too small for bfloat16's 8 bits is made with the chance that
it deserves, where rounding to nearest would lose it each time (Gupta et al. 2015, arXiv:1502.02551; for bfloat16
weights Zamirai et al. 2020, arXiv:2010.06192). A number that bfloat16 has is left as it is, and so are infinity and
NaN. Past the largest finite number the next one is infinity: that alone is not unbiased. The bits come from
_shared/philox, streams MOMENTUM and COPIES. Keeping momentum and public copies so is a reconstruction: the papers of
the steps have float32.
"""

import torch

from fastsaddle.kernels._shared.philox.reference import halves

STATE_DTYPES = (torch.float32, torch.bfloat16)

EXPONENT, MANTISSA, QUIET = 0x7F800000, 0x7FFFFF, 0x40

# seed, step (int64, 0-d or [agents]) and the first row's agent
Random = tuple[int, torch.Tensor, int]


def rounded(value: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """float32 `value` as bfloat16, rounded by `draws`: whole numbers in [0, 2^16), int64, shaped alike."""
    bits = value.view(torch.int32).long() & 0xFFFFFFFF
    special = bits & EXPONENT == EXPONENT
    # a NaN stays one although its lowest bits go
    quiet = torch.where(bits & MANTISSA != 0, QUIET, 0)
    high = torch.where(special, bits >> 16 | quiet, bits + draws >> 16)
    return high.to(torch.int16).view(torch.bfloat16)


def keep(state: torch.Tensor, value: torch.Tensor, random: Random, stream: int) -> None:
    """Write float32 `value` `[agents, columns]` to `state`, rounded where that is bfloat16."""
    if state.dtype == torch.bfloat16:
        value = rounded(value, halves(value, *random, stream))
    state.copy_(value)


def passes_of(state: torch.Tensor | None) -> float:
    """How many passes over float32 rows it takes to read or write `state`."""
    return 0 if state is None else state.element_size() / 4
