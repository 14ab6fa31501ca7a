"""Division by a number that the host knows: a product and a shift instead of some forty instructions.

Granlund and Montgomery 1994 (division by invariant integers using multiplication).
"""

import triton
import triton.language as tl


def reciprocal(divisor: int) -> tuple[int, int]:
    """(multiplier, shift) with number // divisor == 2 number * multiplier >> 32 + shift for numbers from 0 to 2^31 - 1.

    The multiplier lies in [2^31, 2^32), so that Triton takes each as 64 bits. Kernels must not be specialized on them.

    Args:
        divisor: from 1 to 2^31 - 1.
    """
    shift = (divisor - 1).bit_length()
    return -(-(1 << 31 + shift) // divisor), shift


@triton.jit
def quotient(number, multiplier, shift):
    """number // divisor, int32, of non-negative int32 numbers, by what `reciprocal` says of the divisor."""
    high = tl.umulhi((number << 1).to(tl.uint32), multiplier.to(tl.uint32))
    return (high >> shift.to(tl.uint32)).to(tl.int32)
