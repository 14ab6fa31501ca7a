"""Every compressor keeps its claims, `delta` and `omega`, on easy and on hard rows; a bolder copy of it does not.

Compressors that draw send 10,000 messages of the same row, or half as many of a longer one. Bounds hold but for a
chance of 2 exp(-18), 6 sigma, each: Bernstein's inequality with the sample variance (Maurer and Pontil 2009,
arXiv:0907.3740, theorem 4), as rare roundings are far from normal.
"""

from math import sqrt

import pytest
import torch

from fastsaddle.compressors.base import Compressor
from fastsaddle.compressors.stochastic_quantizer import StochasticQuantizer
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import EXAMPLES, draws, each_compressor

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWS, LOG = 10_000, 18
# of float32 and of 16-bit draws: relative to ||x||^2, to the claimed error, and to the largest magnitude
ROUNDING, ROUNDING_OF_CLAIM, ROUNDING_OF_MEAN = 1e-8, 1e-6, 2.0**-16

Samples = dict[str, tuple[torch.Tensor, torch.Tensor]]


def hard_rows(compressor: Compressor, dim: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows of `dim` float32 elements by kind, among them the worst where the compressor is a quantizer."""
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(dim, generator=draw)
    heavy = torch.randn(dim, generator=draw) / torch.randn(dim, generator=draw)
    signs = torch.ones(dim).copysign(torch.randn(dim, generator=draw))
    one_hot = torch.zeros(dim)
    one_hot[seed % dim] = normal[0]
    scales = 10 ** torch.empty(dim).uniform_(-4, 3, generator=draw)
    # one peak a bucket, and the rest so far above level zero that roundings lose most
    levels = getattr(compressor, "most", 1)
    bucket = min(getattr(compressor, "bucket", None) or dim, dim)
    a = levels**2 / max(bucket - 1, 1)
    peaks = torch.full((dim,), (sqrt(a * a + a) - a) / levels)
    peaks[::bucket] = 1.0
    return {
        "normal": normal,
        "heavy-tailed": heavy,
        "constant": signs * normal[0],
        "one-hot": one_hot,
        "mixed scales": normal * scales,
        "worst": signs * peaks,
    }


def sampled(
    compressor: Compressor, dim: int, seed: int, by_step: bool = False, count: int = DRAWS
) -> Samples:
    """kind -> (row, what arrives of it `[draws, dim]`): the kinds are tensors of one row."""
    kinds = hard_rows(compressor, dim, seed)
    layout = FlatLayout.pack([[x.shape for x in kinds.values()]])
    row = layout.allocate(1, "cpu")
    for view, x in zip(layout.views(row), kinds.values(), strict=True):
        view[0] = x
    count = count if draws(compressor) else 1
    step = torch.arange(count) if by_step else seed
    payload = compressor.encode(row.expand(count, -1), seed, step, layout=layout)
    arrived = layout.views(compressor.decode(payload))
    return {name: (x, q) for (name, x), q in zip(kinds.items(), arrived, strict=True)}


def broken_claims(claims: Compressor, samples: Samples) -> list[str]:
    """What of `delta` and `omega` the samples refute."""
    broken = []
    for kind, (x, q) in samples.items():
        count, dim = q.shape
        power = float(x.double().square().sum())
        errors = (q.double() - x.double()).square().sum(1)
        doubt = sqrt(2 * LOG / count) * float(errors.std()) if count > 1 else 0.0
        least = (float(errors.mean()) - doubt) / power - ROUNDING
        delta, omega = claims.delta(dim), claims.omega(dim)
        if delta > 0 and least > (1 - delta) * (1 + ROUNDING_OF_CLAIM):
            broken.append(f"delta on {kind}: {least} > 1 - {delta}")
        if omega is None:
            continue
        if least > omega * (1 + ROUNDING_OF_CLAIM):
            broken.append(f"omega on {kind}: {least} > {omega}")
        spread, reach = torch.zeros(dim), 0.0
        if count > 1:
            spread = q.double().var(0)
            reach = float((q.amax(0) - q.amin(0)).max())
        allowed = (2 * LOG / count * spread).sqrt() + 7 * LOG * reach / (3 * max(count - 1, 1))
        off = (q.double().mean(0) - x.double()).abs() - ROUNDING_OF_MEAN * x.abs().max()
        if bool((off > allowed).any()):
            broken.append(f"mean on {kind}: {off.max()} off")
    return broken


def bolder(compressor: Compressor, times: float) -> Compressor:
    """A copy of a compressor whose claims are so many times better."""

    def delta(_: Compressor, dim: int) -> float:
        claimed = compressor.delta(dim)
        return min(times * claimed, 1 - (1 - claimed) / times) if claimed > 0 else 0.0

    def omega(_: Compressor, dim: int) -> float | None:
        claimed = compressor.omega(dim)
        return None if claimed is None else claimed / times

    claims = {"delta": delta, "omega": omega}
    return type("Bolder", (type(compressor),), claims)(**vars(compressor))


@each_compressor
@pytest.mark.parametrize(("dim", "by_step", "count"), [(37, False, DRAWS), (96, True, DRAWS // 2)])
def test_claims_hold(
    compressor: Compressor, dim: int, by_step: bool, count: int, seed: int
) -> None:
    delta, omega = compressor.delta(dim), compressor.omega(dim)
    assert 0 <= delta <= 1 and (omega is None or omega >= 0)
    assert not broken_claims(compressor, sampled(compressor, dim, seed, by_step, count))


@each_compressor
def test_one_element_is_a_tensor_too(compressor: Compressor, seed: int) -> None:
    assert not broken_claims(compressor, sampled(compressor, 1, seed))


INEXACT = [c for c in EXAMPLES if c.delta(96) < 1]


@pytest.mark.parametrize("compressor", INEXACT, ids=repr)
def test_three_times_better_claims_are_refuted(compressor: Compressor, seed: int) -> None:
    # where levels^2 > dim, the published variance dim / levels^2 is itself four times what can happen
    published = isinstance(compressor, StochasticQuantizer) and compressor.norm == "l2"
    times = 12 if published and compressor.omega(96) is not None else 3
    samples = sampled(compressor, 96, seed, count=2000)
    assert broken_claims(bolder(compressor, times), samples)
    # the copy is otherwise the same
    assert not broken_claims(bolder(compressor, 1), samples)


def test_every_compressor_that_is_not_exact_claims_something() -> None:
    claims = {repr(c): (c.delta(96), c.omega(96)) for c in EXAMPLES}
    assert all(delta > 0 or omega is not None for delta, omega in claims.values()), claims
    assert [c for c in EXAMPLES if c not in INEXACT and draws(c)] == []


@pytest.mark.parametrize("shift", [0.02, -0.02])
def test_a_bias_of_two_percent_of_a_level_is_caught(shift: float, seed: int) -> None:
    quantizer = StochasticQuantizer(4)
    samples = sampled(quantizer, 37, seed)
    x, q = samples["normal"]
    level = float(x.abs().max()) / 7
    broken = broken_claims(quantizer, {"normal": (x, q + shift * level)})
    assert any(each.startswith("mean") for each in broken)


UNBIASED = [c for c in EXAMPLES if c.omega(37) is not None and draws(c)]


@pytest.mark.parametrize("compressor", UNBIASED, ids=repr)
def test_ten_thousand_draws_are_unbiased_to_five_sigma(compressor: Compressor, seed: int) -> None:
    """Along random directions, where sums of elements are close to normal."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(37, generator=draw)
    signs = torch.ones(37, 20).copysign(torch.randn(37, 20, generator=draw)).double()
    arrived = compressor.decode(compressor.encode(x.expand(DRAWS, -1), seed)).double() @ signs
    off = (arrived.mean(0) - x.double() @ signs).abs() - 37 * ROUNDING_OF_MEAN * x.abs().max()
    assert (off <= 5 * arrived.std(0) / sqrt(DRAWS)).all()
