"""Convolutions in lanes: native and reference against plain float64 convolutions, and bits that depend on little."""

import random

import pytest
import torch
from torch.nn import functional as F

from fastsaddle.kernels._shared.lanes.blocks import to_blocks, to_samples
from fastsaddle.kernels.lane_convolution import (
    Layer,
    lane_convolution,
    lane_convolution_backward,
)
from fastsaddle.kernels.lane_convolution.layer import register_width
from fastsaddle.kernels.op import use_backend

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS = 3
CPU = torch.device("cpu")
REASON = lane_convolution.unavailable(CPU).get("native")
needs_native = pytest.mark.skipif(REASON is not None, reason=f"no native library: {REASON}")
NAN = float("nan")


def drawn_layer(draw: random.Random) -> Layer:
    def pair(least: int, most: int) -> tuple[int, int]:
        return draw.randint(least, most), draw.randint(least, most)

    return Layer(
        *(draw.randint(1, 7), pair(17, 22), draw.randint(1, 9), pair(1, 5), pair(1, 3)),
        *(pair(0, 3), pair(1, 3), draw.random() < 0.5, draw.random() < 0.5),
    )


class Case:
    """Random arguments of a layer and its results in float64.

    Args:
        layer: the layer.
        batch: samples of an agent.
        seed: of the draws.
        whole: draw few whole numbers, and quarters as weights: every sum is then exact in float32 whatever its order,
            and windows have several largest numbers.
    """

    def __init__(self, layer: Layer, batch: int, seed: int, whole: bool) -> None:
        draw = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> torch.Tensor:
            if whole:
                return torch.randint(-3, 4, shape, generator=draw).float()
            return torch.randn(*shape, generator=draw)

        self.layer, self.batch = layer, batch
        samples = drawn(AGENTS, batch, layer.channels, *layer.size)
        gradient = drawn(AGENTS, batch, layer.outputs, *layer.result)
        # rows of a wider buffer, as in a stack
        taps = layer.channels * layer.kernel[0] * layer.kernel[1]
        buffer = drawn(AGENTS, layer.outputs * (taps + 1) + 40) / 4
        weight = buffer[:, 8 : 8 + layer.outputs * taps]
        self.weight = weight.unflatten(1, (layer.outputs, layer.channels, *layer.kernel))
        self.bias = buffer[:, -layer.outputs :]
        self.x, self.gradient = to_blocks(samples), to_blocks(gradient)
        wide = [t.double().requires_grad_() for t in (samples, self.weight, self.bias)]
        how = layer.stride, layer.padding, layer.dilation
        out = torch.stack([F.conv2d(*one, *how) for one in zip(*wide, strict=True)])
        out = out.relu() if layer.relu else out
        if layer.pool:
            out = F.max_pool2d(out.flatten(0, 1), 2).unflatten(0, (AGENTS, batch))
        self.expected = out.detach(), *torch.autograd.grad(out, wide, gradient.double())

    def results(self, backend: str | None = None, widest: int = 16) -> list[torch.Tensor]:
        """Output and gradients of input, weights and bias, in float32; what they are written into is poisoned."""
        layer = self.layer
        out = torch.full_like(self.gradient, NAN)
        codes = torch.full(out.shape, 77, dtype=torch.uint8) if layer.relu or layer.pool else None
        of = self.x, self.weight, self.bias
        gradients = [torch.full_like(t, NAN) for t in of]
        if backend != "reference":
            register_width(widest)
        with use_backend(backend):
            lane_convolution(*of, out, codes, *layer.how)
            lane_convolution_backward(
                self.gradient, codes, self.x, self.weight, *gradients, *layer.how
            )
        if backend != "reference":
            register_width()
        return [
            to_samples(out, self.batch),
            to_samples(gradients[0], self.batch),
            *(g.clone() for g in gradients[1:]),
        ]


@pytest.mark.parametrize("number", range(12))
def test_every_geometry_equals_plain_convolutions(number: int, seed: int) -> None:
    draw = random.Random(f"{seed} {number}")
    layer, batch = drawn_layer(draw), draw.choice([1, 7, 16, 33, 90])
    case = Case(layer, batch, seed, whole=True)
    widths = (16, 8, 4) if REASON is None else ()
    for results in (
        case.results("reference"),
        *(case.results("native", width) for width in widths),
    ):
        for got, expected in zip(results, case.expected, strict=True):
            assert torch.equal(got.double(), expected), (layer, batch)
    case = Case(layer, batch, seed, whole=False)
    found = [case.results("native", width) for width in widths]
    for results in found:
        assert torch.allclose(results[0].double(), case.expected[0], atol=1e-4), (layer, batch)
        # one chain of fused multiply-adds, whatever the width of a register
        assert results is found[-1] or all(map(torch.equal, results, found[0])), (layer, batch)


@needs_native
def test_no_bit_depends_on_threads_agents_or_what_else_is_wanted(seed: int) -> None:
    layer = Layer(3, (11, 9), 5, (3, 3), (1, 1), (1, 1), (1, 1), True, True)
    case = Case(layer, 90, seed, whole=False)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(case.results())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    codes = torch.empty_like(case.gradient, dtype=torch.uint8)
    out = torch.empty_like(case.gradient)
    # one agent's samples that all share, without codes
    shared = case.x[1:2].expand(AGENTS, *case.x.shape[1:])
    lane_convolution(shared, case.weight, case.bias, out, None, *layer.how)
    assert torch.equal(to_samples(out, 90)[1], found[0][0][1])
    lane_convolution(case.x, case.weight, case.bias, out, codes, *layer.how)
    for wanted in range(3):
        gradients = [
            torch.full_like(t, NAN) if n == wanted else None
            for n, t in enumerate((case.x, case.weight, case.bias))
        ]
        lane_convolution_backward(case.gradient, codes, case.x, case.weight, *gradients, *layer.how)
        got = gradients[wanted]
        assert got is not None
        got = to_samples(got, 90) if wanted == 0 else got
        assert torch.equal(got, found[0][1 + wanted])


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=needs_native)])
def test_what_is_not_finite_is_seen(backend: str) -> None:
    x = torch.zeros(1, 16, 1, 4, 6)
    x[0, 3, 0, 1, 4], x[0, 4, 0, 0, 0] = NAN, float("inf")
    out, one = torch.empty(1, 1, 1, 2, 3, 16), torch.ones(1, 1, 1, 1, 1)
    codes = torch.empty_like(out, dtype=torch.uint8)
    with use_backend(backend):
        lane_convolution(
            *(to_blocks(x), one, None, out, codes), *((1, 1), (0, 0), (1, 1), True, True)
        )
    samples = to_samples(out, 16)
    assert samples[0, 3, 0, 0, 2].isnan() and samples[0, 4, 0, 0, 0].isinf()
    assert samples[0, :3].eq(0).all() and samples.isnan().sum() == 1


@needs_native
def test_registers_are_as_wide_as_is_said_and_as_there_are() -> None:
    widest = register_width()
    assert [register_width(most) for most in (16, 8, 4)] == [widest, min(widest, 8), 4]
    assert register_width() == widest


def test_what_does_not_fit_is_refused() -> None:
    x, weight = torch.zeros(2, 1, 2, 5, 4, 16), torch.zeros(2, 3, 2, 3, 3)
    out = torch.zeros(2, 1, 3, 3, 2, 16)
    codes = torch.zeros(out.shape, dtype=torch.uint8)
    how = ((1, 1), (0, 0), (1, 1), True, False)
    for given, rule in (
        ((x[:, :, :, :4], weight, None, out, codes, *how), "x must be .* each agent's part contig"),
        ((x[..., :8], weight, None, out, codes, *how), r"x must be .*16\] = \(2, 1, 2, 5, 4, 16\)"),
        ((x, weight[:, :, :1], None, out, codes, *how), r"weight must be .* = \(2, 3, 2, 3, 3\)"),
        ((x, weight.mT, None, out, codes, *how), "weight must be .* each agent's part contiguous"),
        ((x, weight.double(), None, out, codes, *how), "weight must be torch.float32 .* on cpu"),
        ((x, weight, None, out, out, *how), "codes must be torch.uint8"),
        ((x, weight, torch.zeros(3), out, codes, *how), r"bias must be .* = \(2, 3\)"),
        (
            (x, weight, None, out[:, :, :, :1].contiguous(), None, *how),
            r"must be \[2, 1, 3, 3, 2, ",
        ),
        ((x, weight, None, out, codes, *how[:2], (3, 1), True, False), "the kernel must fit"),
        ((x, weight, None, out, codes, (0, 1), *how[1:]), "stride must be two numbers >= 1"),
        ((x, weight, None, out, codes, *how[:1], (0, -1), *how[2:]), "padding must be two num"),
    ):
        with pytest.raises(ValueError, match=rule):
            lane_convolution(*given)
    with pytest.raises(ValueError, match="needs codes, got None"):
        lane_convolution_backward(out, None, x, weight, None, None, None, *how)
    assert "works on CPU tensors, got cuda" in lane_convolution.unavailable("cuda")["native"]
