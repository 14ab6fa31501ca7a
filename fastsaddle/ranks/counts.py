"""Agents of all ranks, which hold one contiguous range each: whose is which."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


def agents_of(counts: Sequence[int], rank: int) -> range:
    """Numbers of the agents of a rank, where `counts` says how many each has."""
    first = sum(counts[:rank])
    return range(first, first + counts[rank])


def owner_of(counts: Sequence[int], agent: int) -> int:
    """The rank that holds an agent."""
    return bisect_right([*accumulate(counts)], agent)
