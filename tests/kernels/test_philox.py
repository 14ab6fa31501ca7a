"""Random bits: Philox as its authors publish it, indexed as _shared/philox says, and a fair choice made from it."""

import pytest
import torch

from fastsaddle import compressors as fc
from fastsaddle.kernels._shared.philox import reference as philox_bits
from tests.comm.compressor_oracles import choice_word, philox, random_columns, rounding_bits

pytestmark = pytest.mark.usefixtures("one_thread")

# the authors' test vectors (Random123, kat_vectors): counter, key, result
KNOWN_ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)  # fmt: skip
# chance below 1e-8 for one comparison
SIGMAS = 6


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = words(key)
    a, b, c, d = words(counter)
    assert philox((a, b, c, d), (low, high)) == words(expected)
    tensors = [torch.tensor([word]) for word in words(counter)]
    got = philox_bits.philox((tensors[0], tensors[1], tensors[2], tensors[3]), high << 32 | low)
    assert tuple(int(word) for word in got) == words(expected)


def test_bits_are_indexed_by_seed_agent_step_and_column(seed: int) -> None:
    long_seed, first_agent = seed << 31 | seed >> 1, seed % 10_007
    x = torch.empty(3, 96)
    for steps in ([seed % 1000] * 3, [2**32 + 5, 5, 2**33 - 1]):
        step = torch.tensor(steps)
        drawn = [
            f(x, long_seed, step, first_agent) for f in (philox_bits.halves, philox_bits.whole)
        ]
        for each, one in zip(drawn, (rounding_bits, choice_word), strict=True):
            expected = [
                [one(long_seed, first_agent + i, steps[i], column) for column in range(96)]
                for i in range(3)
            ]
            assert each.tolist() == expected


@pytest.mark.parametrize("unbiased", [False, True])
def test_random_k_chooses_what_philox_says(unbiased: bool, seed: int) -> None:
    long_seed, first_agent = seed << 31 | seed >> 1, seed % 10_007
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 211, generator=draw)
    steps = torch.randint(0, 2**40, (4,), generator=draw)
    payload = fc.RandomK(0.2, unbiased).encode(x, long_seed, steps, first_agent=first_agent)
    for i in range(4):
        columns = random_columns([(0, 211)], 0.2, long_seed, first_agent + i, int(steps[i]))
        assert payload.parts["indices"][i].tolist() == columns
        factor = torch.tensor(211 / 42 if unbiased else 1.0)
        assert torch.equal(payload.parts["values"][i], x[i, columns] * factor)
        # the seed travels, and the receiver can draw the rest again
        assert payload.message(i)[:8].numpy().tobytes() == long_seed.to_bytes(8, "little")


@pytest.mark.parametrize("by", ["agent", "step"])
def test_random_k_chooses_every_pair_equally_often(by: str, seed: int) -> None:
    draws, dim, k = 10_000, 37, 11
    step = torch.arange(draws) if by == "step" else seed
    payload = fc.RandomK(0.3).encode(torch.ones(draws, dim), seed, step)
    indices = payload.parts["indices"].long()
    assert indices.shape == (draws, k)
    # ascending, so none is drawn twice
    assert bool((indices.diff(dim=1) > 0).all()) and int(indices.max()) < dim
    chosen = torch.zeros(draws, dim, dtype=torch.float64).scatter_(1, indices, 1.0)
    together = chosen.T @ chosen / draws
    expected = torch.full((dim, dim), k * (k - 1) / (dim * (dim - 1)), dtype=torch.float64)
    expected.fill_diagonal_(k / dim)
    sigma = (expected * (1 - expected) / draws).sqrt()
    assert bool(((together - expected).abs() < SIGMAS * sigma).all())
    # agents and steps draw apart from each other
    again = chosen.roll(1, 0)
    rate = (chosen * again).mean(0)
    p = (k / dim) ** 2
    assert bool(((rate - p).abs() < SIGMAS * (3 * p * (1 - p) / draws) ** 0.5).all())
