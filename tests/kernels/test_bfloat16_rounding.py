"""Stochastic rounding to bfloat16: exact means over all draws, special numbers, and the bits that the ops draw."""

from fractions import Fraction
from itertools import pairwise
from math import floor, frexp
from typing import Any

import numpy as np
import pytest
import torch

from fastsaddle.kernels._shared.bfloat16.reference import rounded
from fastsaddle.kernels._shared.philox import reference as philox_bits
from fastsaddle.kernels.op import ops, use_backend
from tests.comm.compressor_oracles import WORD, philox

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWS = 2**16
BACKENDS = ("reference", "native")
LARGEST = Fraction(255, 128) * 2**127


def neighbors(value: float) -> tuple[Fraction, Fraction]:
    """The bfloat16 numbers around a float32 one, by magnitude: 8 significant bits, none finer than 2^-133."""
    exact = abs(Fraction(value))
    spacing = Fraction(2) ** max(frexp(value)[1] - 8, -133)
    low = floor(exact / spacing) * spacing
    return low, low if low == exact else low + spacing


def values(seed: int, count: int) -> torch.Tensor:
    """float32 numbers of all finite magnitudes and both signs."""
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 255, count) << 23 | draw.integers(0, 2**23, count)
    bits |= draw.integers(0, 2, count) << 31
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32))


def test_all_draws_together_give_the_number(seed: int) -> None:
    subnormal = torch.tensor([2.0**-149, -3e-40, 2.0**-133])
    draws = torch.arange(DRAWS)
    for value in torch.cat([values(seed, 40), subnormal]):
        low, high = neighbors(value.item())
        if high > LARGEST:
            continue
        found, counts = rounded(value.expand(DRAWS), draws).double().unique(return_counts=True)
        assert {abs(Fraction(v)) for v in found.tolist()} == {low, high}
        total = sum(Fraction(v) * n for v, n in zip(found.tolist(), counts.tolist(), strict=True))
        assert total / DRAWS == Fraction(value.item())


def test_what_bfloat16_has_stays(seed: int) -> None:
    # every bfloat16 there is, NaNs and infinities included
    every = torch.arange(DRAWS).to(torch.int16).view(torch.bfloat16)
    for draw in (0, DRAWS - 1, seed % DRAWS):
        found = rounded(every.float(), torch.full((DRAWS,), draw))
        assert torch.equal(found.isnan(), every.isnan())
        kept = ~every.isnan()
        assert torch.equal(found.view(torch.int16)[kept], every.view(torch.int16)[kept])


def test_a_nan_never_becomes_infinity_and_the_largest_may(seed: int) -> None:
    payload = torch.tensor([1, 0xFFFF, 0x10000, 0x7FFFFF, seed % 0x7FFFFF + 1])
    nans = (torch.cat([payload, payload | 1 << 31]) | 0x7F800000).to(torch.int32)
    for draw in (0, DRAWS - 1):
        draws = torch.full((10,), draw)
        assert rounded(nans.view(torch.float32), draws).isnan().all()
        top = torch.tensor([3.4028234663852886e38, -3.4028234663852886e38])
        found = rounded(top, draws[:2])
        assert found.isfinite().all() if draw == 0 else found.isinf().all()
        assert torch.equal(found.sign().float(), top.sign())


def momentum_after(g: torch.Tensor, backend: str = "native", **random: Any) -> torch.Tensor:
    """The bfloat16 momentum that local_step makes of gradients g `[agents, columns]` when beta is zero."""
    momentum, zero = torch.zeros_like(g, dtype=torch.bfloat16), torch.zeros(())
    with use_backend(backend):
        ops()["local_step"](
            *(torch.zeros_like(g), None, g, momentum, torch.empty_like(g), zero, zero, zero),
            *(None, 1, False, False, *random.values()),
        )
    return momentum


def bits(seed: int, agent: int, step: int, column: int, stream: int) -> int:
    block = philox((column // 8, agent, step & WORD, stream), (seed & WORD, seed >> 32))
    return block[column % 8 // 2] >> 16 * (column % 2) & 0xFFFF


@pytest.mark.parametrize("stream", [philox_bits.MOMENTUM, philox_bits.COPIES])
def test_streams_are_indexed_like_the_quantizers(stream: int, seed: int) -> None:
    long_seed, first_agent, steps = seed << 31 | seed >> 1, seed % 10_007, [5, 2**32 + 5, seed]
    drawn = philox_bits.halves(
        torch.empty(3, 96), long_seed, torch.tensor(steps), first_agent, stream
    )
    expected = [
        [bits(long_seed, first_agent + i, steps[i], column, stream) for column in range(96)]
        for i in range(3)
    ]
    assert drawn.tolist() == expected
    others = [
        philox_bits.halves(torch.empty(3, 96), long_seed, torch.tensor(steps), first_agent, s)
        for s in (philox_bits.ROUNDING, philox_bits.MOMENTUM, philox_bits.COPIES)
    ]
    # two of them agree in 288 / 65,536 places on average
    assert sum((a == b).sum().item() for a, b in pairwise(others)) < 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_momentum_is_rounded_by_its_stream(backend: str, seed: int) -> None:
    if backend in ops()["local_step"].unavailable("cpu"):
        pytest.skip("native library not built")
    agents, columns, steps = 3, 64, [seed, 7, 2**32 - 1]
    g = values(seed, agents * columns).reshape(agents, columns)
    g[0, :3] = torch.tensor([float("inf"), float("-inf"), float("nan")])
    found = momentum_after(g, backend, seed=seed, step=torch.tensor(steps), first_agent=seed % 1000)
    for i in range(agents):
        for c in range(columns):
            value, got = g[i, c].item(), found[i, c].item()
            if not np.isfinite(value):
                assert got == value or (np.isnan(value) and np.isnan(got))
                continue
            low, high = neighbors(value)
            up = (
                bits(seed, seed % 1000 + i, steps[i], c, philox_bits.MOMENTUM)
                >= (1 - (abs(Fraction(value)) - low) / (high - low)) * DRAWS
                if high > low
                else False
            )
            expected = high if up else low
            if expected > LARGEST:
                assert abs(got) == np.inf
            else:
                assert abs(Fraction(got)) == expected
            assert np.signbit(got) == np.signbit(value)


def test_draws_are_unbiased_from_step_to_step(seed: int) -> None:
    repeats, agents, columns = 200, 4, 256
    g = values(seed, columns).clamp(-1e30, 1e30).expand(agents, columns).contiguous()
    total = torch.zeros(agents, columns, dtype=torch.float64)
    for step in range(repeats):
        total += momentum_after(g, seed=seed, step=torch.tensor(step), first_agent=0).double()
    exact = [neighbors(value) for value in g[0].tolist()]
    low, high = (torch.tensor([float(n[k]) for n in exact], dtype=torch.float64) for k in (0, 1))
    gap, draws = torch.where(high > low, high - low, 1.0), repeats * agents
    chance = (g[0].double().abs() - low) / gap
    # how often each was rounded up, and should have been
    excess = (total.abs().sum(0) - draws * low) / gap - draws * chance
    sigma = (draws * chance * (1 - chance)).sqrt()
    # 6 sigma: chance below 1e-8 for one of them
    assert (excess.abs() <= 6 * sigma + 1).all()
    assert excess.sum().abs() < 6 * sigma.square().sum().sqrt()


def test_draws_depend_neither_on_the_number_of_agents_nor_on_widths(seed: int) -> None:
    g = values(seed, 7 * 2080).reshape(7, 2080).clamp(-1e30, 1e30)
    random = {"seed": seed, "step": torch.tensor(seed % 1000)}
    together = momentum_after(g, **random, first_agent=11)
    for i in range(7):
        alone = momentum_after(g[i : i + 1], **random, first_agent=11 + i)
        assert torch.equal(alone[0], together[i])
    narrow = momentum_after(g[:, :1056].contiguous(), **random, first_agent=11)
    assert torch.equal(narrow, together[:, :1056])


def test_bfloat16_belongs_to_state_alone(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for name, argument in (("gossip_step", "x"), ("choco_step", "g"), ("mix_update", "h")):
        op = ops()[name]
        example = next(iter(op.examples(3, 64, draw).values()))
        example[argument] = example[argument].bfloat16()
        with pytest.raises(ValueError, match=f"{argument} must be float32 on cpu, got torch.bfl"):
            op(*example.values())
    example = ops()["gossip_step"].examples(3, 64, draw)["local"]
    example["momentum"] = example["momentum"].half()
    with pytest.raises(ValueError, match="momentum must be float32 or bfloat16 on cpu"):
        ops()["gossip_step"](*example.values())
