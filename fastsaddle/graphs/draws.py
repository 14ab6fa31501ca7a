"""Random words for graphs, by (seed, round, what for): nothing is drawn in order, so that all see the same."""

from numbers import Integral

import torch

from fastsaddle.kernels._shared.philox.reference import WORD, philox

# the last word of the counter, apart from the streams of `fastsaddle.kernels._shared.philox`
MATCHINGS, MATCHA, OFFSETS, LINKS, AGENTS = 64, 65, 66, 67, 68


def words(count: int, seed: int, round: int, stream: int) -> torch.Tensor:
    """32 random bits each, int64 `[count]`.

    Args:
        count: how many.
        seed, round: from 0 to 2^63 - 1.
        stream: what they are for.
    """
    blocks = torch.arange(-(-count // 4), dtype=torch.int64, device="cpu")
    low, high, what = (
        torch.full_like(blocks, w) for w in (round & WORD, round >> 32 & WORD, stream)
    )
    return torch.stack(philox((blocks, high, low, what), seed), 1).reshape(-1)[:count]


def words_of(numbers: torch.Tensor, seed: int, rounds: torch.Tensor, stream: int) -> torch.Tensor:
    """32 random bits of each number in each round, int64 `[rounds, numbers]`, whatever else is asked for.

    Args:
        numbers: int64, from 0 to 2^32 - 1.
        seed: from 0 to 2^63 - 1.
        rounds: int64, from 0 to 2^63 - 1.
        stream: what they are for.
    """
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
