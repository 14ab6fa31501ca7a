"""Random words for graphs, by (seed, round, what for): nothing is drawn in order, so that all see the same."""

from functools import lru_cache
from numbers import Integral

import torch

from fastsaddle.kernels._shared.philox.reference import WORD, philox

# the last word of the counter, apart from the streams of `fastsaddle.kernels._shared.philox`
MATCHINGS, MATCHA, OFFSETS, LINKS, AGENTS = 64, 65, 66, 67, 68
# rounds whose words are found together
AT_ONCE = 64
# words found together where many are asked for: what they are made of stays in the cache
PART = 2**14


def words(count: int, seed: int, round: int, stream: int) -> torch.Tensor:
    """32 random bits each, int64 `[count]`.

    Args:
        count: how many.
        seed, round: from 0 to 2^63 - 1.
        stream: what they are for.
    """
    return _of_rounds(count, seed, round // AT_ONCE, stream)[round % AT_ONCE]


@lru_cache(maxsize=8)
def _of_rounds(count: int, seed: int, block: int, stream: int) -> torch.Tensor:
    """Those of 64 successive rounds, `[64, count]`: as many operations as one round takes."""
    rounds = torch.arange(block * AT_ONCE, (block + 1) * AT_ONCE, device="cpu")[:, None]
    places = torch.arange(-(-count // 4), device="cpu").expand(AT_ONCE, -1)
    low, high = ((rounds >> bits & WORD).expand_as(places) for bits in (0, 32))
    drawn = philox((places, high, low, torch.full_like(places, stream)), seed)
    return torch.stack(drawn, 2).reshape(AT_ONCE, -1)[:, :count]


def words_of(numbers: torch.Tensor, seed: int, rounds: torch.Tensor, stream: int) -> torch.Tensor:
    """32 random bits of each number in each round, int64 `[rounds, numbers]`, whatever else is asked for.

    Args:
        numbers: int64, from 0 to 2^32 - 1.
        seed: from 0 to 2^63 - 1.
        rounds: int64, from 0 to 2^63 - 1.
        stream: what they are for.
    """
    found = torch.empty(len(rounds), len(numbers), dtype=torch.int64, device="cpu")
    width = max(1, min(PART, len(numbers)))
    height = max(1, PART // width)
    for first in range(0, len(numbers), width):
        for start in range(0, len(rounds), height):
            rows, columns = slice(start, start + height), slice(first, first + width)
            found[rows, columns] = _part(numbers[columns], seed, rounds[rows], stream)
    return found


def _part(numbers: torch.Tensor, seed: int, rounds: torch.Tensor, stream: int) -> torch.Tensor:
    shape = (len(rounds), len(numbers))
    low, high = (w[:, None].expand(shape) for w in (rounds & WORD, rounds >> 32 & WORD))
    what = torch.full_like(low, stream)
    return philox((numbers.expand(shape), high, low, what), seed)[0]


def order(count: int, seed: int, round: int, stream: int) -> list[int]:
    """The numbers below `count` in random order."""
    return words(count, seed, round, stream).argsort(stable=True).tolist()


def check_seed(seed: int) -> None:
    """Raise ValueError unless a seed is a whole number from 0 to 2^63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed!r}")
