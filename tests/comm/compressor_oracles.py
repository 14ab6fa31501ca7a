"""Compressors written a second time from their docstrings: scalar loops, Python's whole numbers, NumPy's float32."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, fsum, prod, sqrt

import numpy as np

from fastsaddle.optimizer.flat_layout import FlatLayout

WORD = 2**32 - 1


@lru_cache(maxsize=100_000)
def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al. 2011)."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = right >> 32 ^ b ^ k, right & WORD, left >> 32 ^ d ^ m, left & WORD
        k, m = k + 0x9E3779B9 & WORD, m + 0xBB67AE85 & WORD
    return a, b, c, d


def rounding_bits(seed: int, agent: int, step: int, column: int) -> int:
    """The 16 bits that round an element: eight elements share a block, two a word, the low half first."""
    block = philox((column // 8, agent, step & WORD, 0), (seed & WORD, seed >> 32))
    return block[column % 8 // 2] >> 16 * (column % 2) & 0xFFFF


def choice_word(seed: int, agent: int, step: int, column: int) -> int:
    """The 32 bits by which an element is chosen: four elements share a block."""
    return philox((column // 4, agent, step & WORD, 1), (seed & WORD, seed >> 32))[column % 4]


def places(layout: FlatLayout | None, columns: int) -> list[tuple[int, int]]:
    """(first column, elements) of each tensor that has any."""
    if layout is None:
        return [(0, columns)]
    found = zip(layout.offsets, map(prod, layout.shapes), strict=True)
    return [place for place in found if place[1]]


def random_columns(
    tensors: Sequence[tuple[int, int]], keep: float, seed: int, agent: int, step: int
) -> list[int]:
    """The columns that a random choice keeps, ascending: the largest words of each tensor, first columns first."""
    kept: list[int] = []
    for first, elements in tensors:
        columns = list(range(first, first + elements))
        columns.sort(key=lambda column: -choice_word(seed, agent, step, column))
        kept += sorted(columns[: max(1, int(keep * elements))])
    return kept


def bit_string(fields: Sequence[int], bits: int) -> bytes:
    """Fields one after the other, the first in the lowest bits, filled up to a whole byte."""
    whole = sum(field << bits * place for place, field in enumerate(fields))
    return whole.to_bytes((len(fields) * bits + 7) // 8, "little")


@dataclass(frozen=True)
class Quantizer:
    """QSGD with buckets, one agent at a time."""

    bits: int
    bucket: int | None
    euclidean: bool
    levels: int
    biased: bool

    def tau(self, elements: int) -> float:
        """1 / (1 + omega) of a bucket; the Euclidean one as published (arXiv:1907.09356, section 3.3)."""
        if not self.biased:
            return 1.0
        d, s = elements, self.levels
        if self.euclidean:
            return 1 / (1 + min(d / s**2, sqrt(d) / s))
        return 1 / (1 + min((d - 1) / (4 * s**2), sqrt(d - 1) / (2 * s)))

    def encode(
        self, row: np.ndarray, tensors: Sequence[tuple[int, int]], seed: int, agent: int, step: int
    ) -> tuple[bytes, np.ndarray]:
        """(message, what arrives) of one row."""
        packed, scales, signs = b"", b"", b""
        value = np.zeros_like(row)
        for first, elements in tensors:
            codes: list[int] = []
            size = self.bucket or elements
            for start in range(first, first + elements, size):
                columns = range(start, min(start + size, first + elements))
                scale, mine = self._bucket(row, columns, seed, agent, step)
                scales += scale.tobytes()
                codes += mine
                value[columns.start : columns.stop] = np.array(mine, dtype=np.float32) * scale
            if self.levels < 2 ** (self.bits - 1):
                packed += bit_string([code % 2**self.bits for code in codes], self.bits)
            else:
                packed += bit_string([abs(code) for code in codes], self.bits)
                signs += bit_string([int(code < 0) for code in codes], 1)
        return packed + scales + signs, value

    def _bucket(
        self, row: np.ndarray, columns: range, seed: int, agent: int, step: int
    ) -> tuple[np.float32, list[int]]:
        magnitudes = [np.float32(abs(row[c])) for c in columns]
        squares = fsum(float(m) ** 2 for m in magnitudes)
        top = np.float32(sqrt(squares)) if self.euclidean else max(magnitudes)
        if top < 2.0**-100:
            return np.float32(0), [0] * len(columns)
        inverse = np.float32(self.levels) / top
        codes = []
        for column, magnitude in zip(columns, magnitudes, strict=True):
            u = np.float32((rounding_bits(seed, agent, step, column) + 0.5) / 2**16)
            code = min(floor(np.float32(magnitude * inverse) + u), self.levels)
            codes.append(code if row[column] > 0 else -code)
        scale = top / np.float32(self.levels)
        return np.float32(scale * np.float32(self.tau(len(columns)))), codes
