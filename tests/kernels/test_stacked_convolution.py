"""Stacked convolutions by Triton kernels: each agent gets torch's own convolution in float64, up to counted roundings.

The `triton` cases run on a GPU, or interpreted (test_interpreter.py). The interpreter computes TF32 in float32,
and cuts float32 off to bfloat16 where hardware rounds; both is allowed for.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.kernels.stacked_convolution import (
    Geometry,
    stacked_convolution,
)
from fastsaddle.kernels.stacked_convolution import (
    stacked_convolution_input_gradient as input_gradient,
)
from fastsaddle.kernels.stacked_convolution import (
    stacked_convolution_weight_gradient as weight_gradient,
)
from fastsaddle.sim.engines._implicit_convolution import implicit_convolution
from fastsaddle.sim.engines._patch_convolution import MappedLayers
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.networks._convolution import convolution
from fastsaddle.sim.networks.lenet5 import lenet5
from fastsaddle.sim.networks.resnet20 import FAMILIES, Block

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REASON = stacked_convolution.unavailable(DEVICE).get("triton")
needs_kernels = pytest.mark.skipif(REASON is not None, reason=str(REASON))
pytestmark = pytest.mark.usefixtures("one_thread")
# agents, batch, channels, height, width, outputs, kernel, stride, padding, dilation
CASES: dict[str, tuple[Any, ...]] = {
    "plain": (5, 2, 3, 9, 11, 4, (3, 3), (1, 1), (0, 0), (1, 1)),
    "one channel": (2, 3, 1, 12, 13, 6, (5, 5), (1, 1), (2, 2), (1, 1)),
    "more outputs than a tile": (1, 1, 7, 5, 6, 70, (3, 3), (1, 1), (1, 1), (1, 1)),
    "more terms than a tile": (1, 2, 40, 4, 5, 17, (3, 3), (1, 1), (1, 1), (1, 1)),
    "one tap a tile": (2, 3, 16, 9, 9, 20, (3, 3), (2, 2), (1, 1), (1, 1)),
    "one tap a wide tile": (2, 2, 64, 3, 4, 32, (3, 3), (1, 1), (1, 1), (1, 1)),
    "pointwise": (5, 2, 5, 7, 8, 6, (1, 1), (2, 2), (0, 0), (1, 1)),
    "leaves rows out": (2, 1, 2, 10, 12, 3, (3, 2), (4, 3), (0, 0), (1, 1)),
    "dilated": (2, 2, 3, 10, 11, 5, (3, 3), (1, 1), (2, 2), (2, 2)),
    "uneven": (2, 2, 3, 10, 11, 5, (3, 2), (1, 2), (1, 4), (2, 3)),
    "padded beyond the kernel": (1, 2, 2, 4, 5, 3, (2, 3), (3, 2), (5, 7), (1, 1)),
    "one position": (5, 1, 3, 4, 5, 2, (4, 5), (1, 1), (0, 0), (1, 1)),
    "sums in parts": (2, 2, 2, 32, 34, 3, (1, 2), (1, 1), (0, 0), (1, 1)),
}
# dtype, tf32, roundings of a factor and of a result
FULL, TF32, HALF = (
    (torch.float32, False, 0.0, 2.0**-24),
    (torch.float32, True, 2.0**-10, 2.0**-24),
    (torch.bfloat16, False, 0.0, 2.0**-7),
)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that is not written holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all() and torch.empty(3).new_empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def drawn(case: Any, dtype: torch.dtype, seed: int) -> tuple[list[Tensor], list[Any]]:
    """x, weight, bias and the gradient of the output, none of them contiguous; stride, padding, dilation."""
    agents, batch, channels, height, width, out, kernel, *how = case
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, agents, width, height).permute(2, 0, 1, 4, 3)
    # parts of one row an agent, as in a stack
    weights = out * channels * kernel[0] * kernel[1]
    rows = torch.randn(agents, weights + out + 3)
    weight = rows[:, :weights].view(agents, out, channels, *kernel)
    bias = rows[:, weights : weights + out]
    shape = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip((height, width), kernel, *how, strict=True)
    ]
    upstream = torch.randn(agents, 2, out, batch, *shape)[:, 1].transpose(1, 2)
    return [t.to(DEVICE, dtype) for t in (x, weight, bias, upstream)], how


def expected(given: list[Tensor], how: list[Any]) -> list[Tensor]:
    """Output, and gradients of x, weight and bias, agent by agent in float64."""
    x, weight, bias, upstream = (t.detach().cpu().double().requires_grad_() for t in given)
    one_by_one = zip(x, weight, bias, strict=True)
    out = torch.stack([F.conv2d(*agent, *how) for agent in one_by_one])
    gradients = torch.autograd.grad(out, (x, weight, bias), upstream)
    return [out.detach(), *gradients]


def assert_close(found: list[Tensor], given: list[Tensor], how: list[Any], kind: Any) -> None:
    """Within the roundings of factors, of as many float32 sums as there are terms, and of the result.

    Matrix units cut sums off: 2^-23 of a sum instead of 2^-24.
    """
    dtype, _, factor, rounding = kind
    sizes = expected([t.abs() for t in given], how)
    terms = [given[1][0, 0].numel() + 1, given[1][0].numel(), given[3][0].numel()]
    for got, exact, size, many in zip(
        found, expected(given, how), sizes, [*terms, terms[-1]], strict=True
    ):
        assert got.dtype == dtype and got.shape == exact.shape
        allowed = (2 * factor + (many + 2) * 2.0**-23) * size + rounding * exact.abs()
        assert ((got.cpu().double() - exact).abs() <= allowed).all()


@needs_kernels
@pytest.mark.parametrize("kind", [FULL, TF32, HALF], ids=["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_triton_gives_each_agent_its_convolution(case: str, kind: Any, seed: int) -> None:
    given, how = drawn(CASES[case], kind[0], seed)
    x, weight, bias, upstream = (t.requires_grad_() for t in given)
    out = implicit_convolution(x, weight, bias, Geometry(*how), kind[1])
    assert out.is_contiguous()
    gradients = torch.autograd.grad(out, (x, weight, bias), upstream)
    assert_close([out.detach(), *gradients], given, how, kind)
    plain = implicit_convolution(x, weight, None, Geometry(*how), kind[1])
    assert torch.allclose(plain + bias[:, None, :, None, None], out, rtol=0.02, atol=0.02)


@needs_kernels
def test_triton_bits_of_an_agent_do_not_depend_on_the_others(seed: int) -> None:
    from fastsaddle.kernels.stacked_convolution.weight_triton import parts_of

    (x, weight, _, upstream), how = drawn(CASES["sums in parts"], torch.float32, seed)
    assert parts_of(2048, weight[0].numel(), 1, x[0].numel() + upstream[0].numel()) == 2
    # ResNet-20's layers with 16 and with 64 channels, 32 samples
    assert parts_of(32 * 32**2, 16 * 144, 3, 2 * 16 * 32**3) == 21
    assert parts_of(32 * 8**2, 64 * 576, 9, 2 * 64 * 32 * 8**2) == 1
    whole = weight_gradient(upstream, x, weight.shape[3:], *how, False)
    one = weight_gradient(upstream[1:], x[1:], weight.shape[3:], *how, False)
    assert torch.equal(whole[1], one[0])
    again = weight_gradient(upstream, x, weight.shape[3:], *how, False)
    assert torch.equal(whole, again)


@needs_kernels
def test_triton_shares_what_is_not_stacked(seed: int) -> None:
    given, how = drawn(CASES["plain"], torch.float32, seed)
    # one agent's images and gradients for all, without a copy
    for n in (0, 3):
        given[n] = given[n][:1].contiguous().expand_as(given[n])
    x, weight, bias, upstream = given
    found = [
        stacked_convolution(x, weight, bias, *how, False),
        input_gradient(upstream, weight, x.shape[3:], *how, False),
        weight_gradient(upstream, x, weight.shape[3:], *how, False),
        upstream.sum((1, 3, 4)),
    ]
    assert_close(found, given, how, FULL)


def far(t: Tensor) -> Tensor:
    """A copy whose last agent begins behind element 2^31."""
    numbers = t[0].numel()
    stride = -(-(2**31) // (16 * (t.shape[0] - 1))) * 16 + 16
    memory = torch.empty(stride * (t.shape[0] - 1) + numbers, dtype=t.dtype)
    return memory.as_strided(t.shape, (stride, *t.contiguous().stride()[1:])).copy_(t)


@pytest.mark.skipif(sys.platform == "win32", reason="memory is committed when it is asked for")
@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU has no memory that is not there")
@needs_kernels
def test_triton_reads_agents_beyond_32_bits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # filling the gaps would commit them
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    (x, weight, bias, upstream), how = drawn(CASES["pointwise"], torch.float32, seed)
    given = [far(x), far(weight), far(bias), far(upstream)]
    found = [
        stacked_convolution(*given[:3], *how, False),
        input_gradient(given[3], given[1], x.shape[3:], *how, False),
        weight_gradient(given[3], given[0], (1, 1), *how, False),
        upstream.sum((1, 3, 4)),
    ]
    assert_close(found, [x, weight, bias, upstream], how, FULL)


def fenced(t: Tensor, at_end: bool) -> Tensor:
    """A copy that begins, or ends, where memory does: beyond it lie pages that nobody may read."""
    page = mmap.PAGESIZE
    pages = -(-t.numel() * t.element_size() // page) + 2
    region = mmap.mmap(-1, pages * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for fence in (address, address + (pages - 1) * page):
        assert protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    offset = (pages - 1) * page - t.numel() * t.element_size() if at_end else page
    return (
        torch.frombuffer(region, dtype=t.dtype, count=t.numel(), offset=offset).view_as(t).copy_(t)
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fences pages by mprotect")
@pytest.mark.skipif(DEVICE.type == "cuda", reason="compute-sanitizer is for GPUs")
@needs_kernels
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("case", ["pointwise", "uneven", "sums in parts"])
def test_triton_reads_nothing_beyond_its_arguments(case: str, at_end: bool, seed: int) -> None:
    given, how = drawn(CASES[case], torch.float32, seed)
    x, weight, bias, upstream = (fenced(t.contiguous(), at_end) for t in given)
    found = [
        stacked_convolution(x, weight, bias, *how, False),
        input_gradient(upstream, weight, x.shape[3:], *how, False),
        weight_gradient(upstream, x, weight.shape[3:], *how, False),
        upstream.sum((1, 3, 4)),
    ]
    assert_close(found, given, how, FULL)


@needs_kernels
def test_triton_operators_keep_torchs_rules(seed: int) -> None:
    (x, weight, bias, upstream), how = drawn(CASES["leaves rows out"], torch.float32, seed)
    tests = ("test_schema", "test_faketensor")
    for op, given in (
        (stacked_convolution, (x, weight, bias)),
        (stacked_convolution, (x, weight, None)),
        (input_gradient, (upstream, weight, x.shape[3:])),
        (weight_gradient, (upstream, x, weight.shape[3:])),
    ):
        torch.library.opcheck(
            getattr(torch.ops.fastsaddle, op.name).default, (*given, *how, False), test_utils=tests
        )


def test_groups_and_named_padding_are_left_to_vmap(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, 2, 4, 6, 7, dtype=torch.float64)
    cases: list[tuple[dict[str, Any], int]] = [({"groups": 2}, 2), ({"padding": "same"}, 4)]

    def refused(*given: Any) -> Tensor:
        raise AssertionError("not a convolution for the kernels")

    for options, channels in cases:
        weight = torch.randn(3, 6, channels, 3, 3, dtype=torch.float64)
        with MappedLayers(refused):
            found = torch.vmap(lambda x, w, o=options: F.conv2d(x, w, **o))(x, weight)
        one_by_one = zip(x, weight, strict=True)
        exact = torch.stack([F.conv2d(*agent, **options) for agent in one_by_one])
        assert torch.allclose(found, exact, rtol=1e-12, atol=1e-12)


def lenet() -> tuple[nn.Module, tuple[int, ...]]:
    return lenet5((1, 12, 13), 10), (1, 12, 13)


def resnet() -> tuple[nn.Module, tuple[int, ...]]:
    family = FAMILIES["groupnorm"]
    blocks = Block(16, 16, family), Block(16, 32, family)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    return nn.Sequential(convolution(3, 16), *blocks, *head), (3, 6, 7)


def smooth() -> tuple[nn.Module, tuple[int, ...]]:
    """Without kinks, which roundings of bfloat16 would cross."""
    layers = nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 18, 3, 2, 1), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(18 * 9, 10)), (2, 7, 8)


NETWORKS = {"lenet5": lenet, "resnet": resnet, "smooth": smooth}


@needs_kernels
@pytest.mark.parametrize(
    ("network", "precision", "tolerance"),
    [("lenet5", "float32", 1e-5), ("resnet", "float32", 1e-4), ("smooth", "bfloat16", 5e-2)],
)
def test_triton_engine_agrees_with_the_loop(
    network: str, precision: str, tolerance: float, seed: int
) -> None:
    torch.manual_seed(seed)
    module, shape = NETWORKS[network]()
    module.to(DEVICE)
    stack = fs.AgentStack(module, 3, init="independent", seed=seed)
    inputs = torch.randn(3, 2, *shape, device=DEVICE)
    targets = torch.randint(0, 10, (3, 2), device=DEVICE)
    losses = GradientEngine(stack, F.cross_entropy, "loop").gradients(inputs, targets)
    exact = {name: g.clone() for name, g in stack.named_gradients()}
    engine = GradientEngine(stack, F.cross_entropy, "implicit", 2, precision)
    for part in dict(stack.named_gradients()).values():
        part.fill_(float("nan"))
    found = engine.gradients(inputs, targets)
    assert torch.allclose(found, losses, rtol=10 * tolerance, atol=10 * tolerance)
    whole = torch.cat([g.flatten() for g in exact.values()])
    got = torch.cat([g.flatten() for _, g in stack.named_gradients()])
    assert (got - whole).norm() <= tolerance * whole.norm()


@needs_kernels
def test_triton_gradients_have_no_gradients(seed: int) -> None:
    (x, weight, *_), how = drawn(CASES["plain"], torch.float32, seed)
    weight.requires_grad_()
    out = implicit_convolution(x, weight, None, Geometry(*how))
    (gradient,) = torch.autograd.grad((out**2).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_refusals() -> None:
    x, weight, bias = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 7, 4, 3, 3), torch.randn(2, 7)
    how = ([1, 1], [0, 0], [1, 1], False)
    for given, rule in (
        ((x[0], weight, bias, *how), r"x must be \[agents, batch, channels"),
        (
            (x[:1], weight, bias, *how),
            r"weight must be .* = \(1, 7, 4, 3, 3\) on cpu, got .*\(2, 7",
        ),
        ((x, weight[:, :, :3], bias, *how), r"weight must be .* = \(2, 7, 4, 3, 3\)"),
        (
            (x, weight, bias[:, 1:], *how),
            r"bias must be .*\[agents, outputs\] = \(2, 7\).*\(2, 6\)",
        ),
        ((x.double(), weight, bias, *how), "x must be torch.float32 or torch.bfloat16"),
        (
            (x.bfloat16(), weight, bias, *how),
            r"all must be float32 or all bfloat16.*x torch.bfloat16 on cpu",
        ),
        ((x.half(), weight.half(), None, *how), "x must be torch.float32 or torch.bfloat16"),
        ((x, weight.to("meta"), None, *how), "weight must be .* on cpu, got .* on meta"),
        ((x[:, :0], weight, bias, *how), r"no size may be 0"),
        ((x[..., :2], weight, bias, *how), r"the kernel must fit"),
        ((x, weight, bias, [0, 1], *how[1:]), r"stride must be two numbers >= 1"),
        ((x, weight, bias, [1, 1], [0, -1], *how[2:]), r"padding must be two numbers >= 0"),
    ):
        with pytest.raises(ValueError, match=rule):
            stacked_convolution(*given)
    gradient = torch.randn(2, 3, 7, 3, 4)
    with pytest.raises(ValueError, match=r"gradient must be \[2, 3, 7, 3, 5\], got \[2, 3, 7, 3"):
        input_gradient(gradient, weight, [5, 7], *how)
    with pytest.raises(ValueError, match=r"gradient must be \[2, 3, 7, 4, 4\]"):
        weight_gradient(gradient, x, [2, 3], *how)
    huge = torch.empty(1, 2**20, 1, 64, 64, device="meta")
    with pytest.raises(ValueError, match=rf"at most {2**31 - 2**14}, got {2**32}"):
        stacked_convolution(huge, torch.empty(1, 1, 1, 1, 1, device="meta"), None, *how)


@pytest.mark.skipif(
    "triton" not in stacked_convolution.unavailable("cpu"), reason="kernels are interpreted"
)
def test_the_engine_is_for_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    stack = fs.AgentStack(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten()), 2)
    with pytest.raises(ValueError, match="engine implicit cannot run: "):
        GradientEngine(stack, F.cross_entropy, "implicit")
    assert main(["train", "--engine", "implicit", "--device", "cpu"]) == 2
    assert "engine implicit cannot run: " in capsys.readouterr().err
