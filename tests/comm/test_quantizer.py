"""The quantizer byte for byte against an oracle written from its equations, and at the edges of its buckets."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from fastsaddle.compressors import StochasticQuantizer
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import LAYOUT, messages, rows
from tests.comm.compressor_oracles import Quantizer, places

pytestmark = pytest.mark.usefixtures("one_thread")

# fewer than all levels, all that leave a place for the sign, and all
LEVELS = {8: (100, 127, 255), 4: (7, 15), 2: (1, 3)}
CODES = [
    {"bits": bits, "bucket": bucket, "norm": norm, "levels": levels, "biased": biased}
    for bits in LEVELS
    for bucket, norm in itertools.product((512, 32, None), ("max", "l2"))
    for levels in LEVELS[bits]
    for biased in (False, True)
]


def uneven(agents: int, like: int | FlatLayout, seed: int) -> torch.Tensor:
    """Rows of mixed magnitudes with zeros of both signs, and an agent whose numbers are next to none."""
    draw = torch.Generator().manual_seed(seed + 1)
    x = rows(agents, like, seed)
    x *= 10 ** torch.empty_like(x).uniform_(-3, 2, generator=draw)
    chance = torch.rand(x.shape, generator=draw)
    x = torch.where(chance < 0.05, 0.0, torch.where(chance < 0.1, -0.0, x))
    x[-1] *= 1e-33
    return x


@pytest.mark.parametrize("options", CODES, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("like", [LAYOUT, 1, 37, 96], ids=["layout", "1", "37", "96"])
def test_messages_are_the_oracles(
    options: dict[str, Any], like: int | FlatLayout, seed: int
) -> None:
    quantizer = StochasticQuantizer(**options)
    oracle = Quantizer(
        options["bits"],
        options["bucket"],
        options["norm"] == "l2",
        options["levels"],
        options["biased"],
    )
    layout = like if isinstance(like, FlatLayout) else None
    agents = 2 if layout else 3
    x = uneven(agents, like, seed)
    long_seed, first_agent = seed << 31 | seed >> 1, seed % 997
    steps = torch.tensor([2**32 + 3, seed, 7][:agents])
    payload = quantizer.encode(x, long_seed, steps, layout=layout, first_agent=first_agent)
    decoded = quantizer.decode(payload)
    tensors = places(layout, x.shape[1])
    for i, message in enumerate(messages(payload)):
        expected, value = oracle.encode(
            x[i].numpy(), tensors, long_seed, first_agent + i, int(steps[i])
        )
        assert message == expected
        assert np.array_equal(decoded[i].numpy(), value)


def test_defaults_keep_the_sign_inside_the_bits() -> None:
    for bits, levels in ((8, 127), (4, 7), (2, 1)):
        quantizer = StochasticQuantizer(bits)
        assert (quantizer.most, quantizer.has_sign_plane) == (levels, False)
        assert StochasticQuantizer(bits, levels=levels + 1).has_sign_plane


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_published_quantizer_has_its_tau(bits: int, seed: int) -> None:
    s, dim = 2**bits - 1, 2 ** (2 * bits)
    x = torch.tensor(0.75).copysign(rows(1, dim, seed))
    published = StochasticQuantizer(bits, None, "l2", s, biased=True)
    tau = 1 / (1 + min(dim / s**2, dim**0.5 / s))
    assert published.delta(dim) == pytest.approx(tau) and published.omega(dim) is None
    plain = StochasticQuantizer(bits, None, "l2", s)
    assert plain.omega(dim) == pytest.approx(min(dim / s**2, dim**0.5 / s))
    arrived = [q.decode(q.encode(x, seed)) for q in (published, plain)]
    assert torch.allclose(arrived[0], tau * arrived[1], rtol=1e-6, atol=0)
    # every element lies between the levels 0 and 1 of ||x|| / s
    level = 0.75 * dim**0.5 / s
    assert bool(((arrived[1] == 0) | ((arrived[1].abs() / level - 1).abs() < 1e-6)).all())


@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_buckets_without_a_scale(bits: int, norm: Any, seed: int) -> None:
    quantizer = StochasticQuantizer(bits, 32, norm)
    x = rows(1, 129, seed)
    # of four buckets and one of one element: zeros, too little, just enough, as they were
    x[0, :32] = torch.tensor([0.0, -0.0]).repeat(16)
    x[0, 32:64], x[0, 33] = 0.0, -(2.0**-101)
    x[0, 64:96], x[0, 65] = 0.0, -(2.0**-100)
    payload = quantizer.encode(x, seed)
    scales, arrived = payload.parts["scales"][0], quantizer.decode(payload)[0]
    assert scales.shape == (5,) and (scales[:2] == 0).all() and (scales[2:] > 0).all()
    assert not arrived[:64].any() and not arrived[:64].signbit().any()
    assert not payload.parts["codes"][0, : 64 * bits // 8].any()
    assert arrived[65] == pytest.approx(-(2.0**-100), rel=1e-6)
    assert arrived[128] == pytest.approx(float(x[0, 128]), rel=2 / 127 if bits == 8 else 1e-6)
    residual = torch.zeros_like(x)
    quantizer.compress_ef_(x, residual, seed)
    assert torch.equal(residual[:, :64], x[:, :64])


def test_buckets_begin_anew_with_each_tensor(seed: int) -> None:
    layout = FlatLayout.pack([[(40,), (513,)]])
    x = rows(1, layout, seed)
    scales = StochasticQuantizer(8).encode(x, layout=layout).parts["scales"][0]
    pieces = (x[0, :40], x[0, 64:576], x[0, 576:577])
    assert torch.equal(scales, torch.stack([piece.abs().max() for piece in pieces]) / 127)


@pytest.mark.parametrize("levels", [127, 255])
def test_the_largest_magnitude_stays_within_the_levels(levels: int, seed: int) -> None:
    # float32 lifts |x| (levels / top) + u to levels + 1 in one draw of 65536; of 127 levels, only where it rounds up
    tops = 1.0 + torch.rand(4000, 1, generator=torch.Generator().manual_seed(seed))
    tops = tops[tops * (levels / tops) > levels] if levels != 255 else tops[:, 0]
    x = tops[:100, None].copysign(rows(100, 4096, seed))
    quantizer = StochasticQuantizer(8, levels=levels)
    level = quantizer.decode(quantizer.encode(x, seed)) / x * levels
    assert bool(((level - levels).abs() < 1e-3).logical_or((level - levels + 1).abs() < 1e-3).all())
