"""Stochastic quantization in plain PyTorch, bucket by bucket: one rounding an operation, as all twins do it.

A bucket is a piece of a row with a scale of its own. The table of buckets is int32 `[buckets, 2]`: first column and
number of elements. Buckets lie in the order of their columns, each begins at a multiple of 32 and the next begins
where 32-element pieces of the one before end; columns between hold zeros, in rows as in codes.

    top   = max |x|, or the Euclidean norm, of the bucket
    scale = top / levels                     the value of one level
    code  = floor(|x| (levels / top) + u)    at most `levels`, with the sign of x;  u = (r + 1/2) / 2^16
    value = code scale

r are the element's 16 random bits (_shared/philox), so the value is x on average. A bucket whose top is below TINY has
scale zero and codes zero; one that is not finite has scale NaN and codes zero.
"""

import torch

from fastsaddle.kernels._shared.philox.reference import halves

MAX, EUCLIDEAN = 0, 1
# 2^-100: reciprocals of what is smaller overflow, or are lost where denormals are
TINY = 2.0**-100
PIECE = 32
MAGNITUDE = 0x7FFFFFFF
BUCKET_RULE = "buckets must lie one behind the other from column 0 to the last, each with at least one element"
COUNT_RULE = "counts must be between 1 and each tensor's elements, and sum to the width of indices"


def check_table(buckets: torch.Tensor, columns: int, bucket: int) -> None:
    """Raise ValueError unless the buckets cover all columns, one behind the other, with at most `bucket` elements."""
    first, elements = buckets.long().unbind(1)
    ends = first + (elements + PIECE - 1) // PIECE * PIECE
    follows = torch.cat((first[1:], first.new_tensor([columns])))
    if (
        bool(((elements < 1) | (elements > bucket)).any())
        or int(first[0]) != 0
        or bool((ends != follows).any())
    ):
        raise ValueError(BUCKET_RULE)


def bucket_of(buckets: torch.Tensor) -> torch.Tensor:
    """The bucket's number of each column, int64 `[columns]`."""
    pieces = (buckets[:, 1].long() + PIECE - 1) // PIECE * PIECE
    return torch.repeat_interleave(torch.arange(len(buckets), device=buckets.device), pieces)


def is_element(buckets: torch.Tensor) -> torch.Tensor:
    """Which columns hold elements, bool `[columns]`: the others are padding."""
    number = bucket_of(buckets)
    column = torch.arange(len(number), device=buckets.device)
    return column < (buckets[:, 0] + buckets[:, 1]).long()[number]


def tops(x: torch.Tensor, number: torch.Tensor, buckets: int, norm: int) -> torch.Tensor:
    """Largest magnitude or Euclidean norm of each bucket, float32 `[agents, buckets]`; not finite where x is not."""
    index = number.expand(x.shape)
    if norm == EUCLIDEAN:
        sums = torch.zeros(x.shape[0], buckets, dtype=torch.float64, device=x.device)
        return sums.scatter_add_(1, index, x.double().square()).sqrt().float()
    # as whole numbers, where NaN is larger than infinity and that than all others
    bits = (x.contiguous().view(torch.int32) & MAGNITUDE).contiguous()
    largest = torch.zeros(x.shape[0], buckets, dtype=torch.int32, device=x.device)
    return largest.scatter_reduce_(1, index, bits, "amax").view(torch.float32)


def quantized(
    x: torch.Tensor,
    buckets: torch.Tensor,
    levels: int,
    norm: int,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(magnitudes of the codes int32 `[agents, columns]`, scales float32 `[agents, buckets]`)."""
    number = bucket_of(buckets)
    top = tops(x, number, len(buckets), norm)
    usable, finite = top >= TINY, top.isfinite()
    divisor = torch.where(usable & finite, top, 1.0)
    count = torch.full_like(top, levels)
    inverse = torch.where(usable & finite, count / divisor, 0.0)
    scale = torch.where(finite, torch.where(usable, divisor / count, 0.0), torch.nan)
    u = (halves(x, seed, step, first_agent).float() + 0.5) * 2.0**-16
    codes = (x.abs() * inverse[:, number] + u).floor()
    codes = torch.where(finite[:, number], codes, 0.0).clamp(max=levels)
    return codes.int(), scale


def packed(fields: torch.Tensor, bits: int) -> torch.Tensor:
    """Non-negative numbers below 2^bits, int32 `[agents, columns]`, as bytes; the first lies in the lowest bits."""
    each = 8 // bits
    places = torch.arange(each, dtype=torch.int32, device=fields.device) * bits
    shifted = fields.view(fields.shape[0], -1, each) << places
    return shifted.sum(-1).to(torch.uint8)


def unpacked(packed_bytes: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `packed`: int32 `[agents, columns]`."""
    places = torch.arange(8 // bits, dtype=torch.int32, device=packed_bytes.device) * bits
    fields = packed_bytes.int()[..., None] >> places & (1 << bits) - 1
    return fields.flatten(1)


def has_sign_plane(bits: int, levels: int) -> bool:
    """Whether so many levels leave no place for the sign among the bits of a code."""
    return levels > 2 ** (bits - 1) - 1


def write_codes(
    x: torch.Tensor,
    magnitudes: torch.Tensor,
    bits: int,
    codes: torch.Tensor,
    signs: torch.Tensor | None,
) -> None:
    """Pack the codes of x: two's complement fields, or magnitudes and one bit for each sign."""
    negative = x.signbit() & (magnitudes > 0)
    if signs is None:
        codes.copy_(packed(torch.where(negative, -magnitudes, magnitudes) & (1 << bits) - 1, bits))
    else:
        codes.copy_(packed(magnitudes, bits))
        signs.copy_(packed(negative.int(), 1))


def decoded(
    codes: torch.Tensor | None,
    scales: torch.Tensor,
    signs: torch.Tensor | None,
    buckets: torch.Tensor,
    bits: int,
) -> torch.Tensor:
    """The values, float32 `[agents, columns]`; without codes every element is its bucket's scale with a sign."""
    scale = scales[:, bucket_of(buckets)]
    if codes is None:
        values = torch.where(is_element(buckets), scale, 0.0)
    else:
        fields = unpacked(codes, bits)
        if signs is None:
            fields = torch.where(fields >= 1 << bits - 1, fields - (1 << bits), fields)
        values = fields.float() * scale
    return values if signs is None else torch.where(unpacked(signs, 1) > 0, -values, values)


def values_of(
    x: torch.Tensor, magnitudes: torch.Tensor, scales: torch.Tensor, buckets: torch.Tensor
) -> torch.Tensor:
    """What the codes of x stand for, float32 `[agents, columns]`."""
    values = magnitudes.float() * scales[:, bucket_of(buckets)]
    return torch.where(x.signbit() & (magnitudes > 0), -values, values)


def check_code(bits: int, levels: int, norm: int, signs: torch.Tensor | None) -> None:
    """Bits, levels and norm can be, and signs are given where levels leave them no place."""
    if bits not in (2, 4, 8) or not 1 <= levels < 2**bits:
        raise ValueError(
            f"bits must be 2, 4 or 8 with 1 to 2^bits - 1 levels, got {bits}, {levels}"
        )
    if norm not in (MAX, EUCLIDEAN):
        raise ValueError(f"norm must be 0 (largest magnitude) or 1 (Euclidean), got {norm}")
    if (signs is None) == has_sign_plane(bits, levels):
        raise ValueError(
            f"{levels} levels in {bits} bits {'need' if signs is None else 'hold'} their signs "
            f"{'apart' if signs is None else 'already'}, got {'none' if signs is None else 'signs'}"
        )
