"""EvoNorm in lanes: native and reference against the module in float64."""

import pytest
import torch

from fastsaddle.kernels._shared.lanes.blocks import BLOCK, to_blocks, to_samples
from fastsaddle.kernels.lane_evonorm import lane_evonorm, lane_evonorm_backward
from fastsaddle.kernels.op import use_backend
from fastsaddle.sim.networks._norms import EvoNormHardSwish

REASON = lane_evonorm.unavailable("cpu").get("native")
needs_native = pytest.mark.skipif(REASON is not None, reason=f"no native library: {REASON}")
pytestmark = pytest.mark.usefixtures("one_thread")
NATIVE = pytest.param("native", marks=needs_native)
AGENTS, NAN = 3, float("nan")


class Case:
    def __init__(
        self, batch: int, channels: int, groups: int, size: tuple[int, int], seed: int
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        samples = torch.randn(AGENTS, batch, channels, *size, generator=draw) * 3
        gradient = torch.randn(samples.shape, generator=draw)
        self.x, self.gradient = to_blocks(samples), to_blocks(gradient)
        self.batch, self.groups = batch, groups
        # rows of a wider buffer, as in a stack
        buffer = torch.randn(AGENTS, 2 * channels + 5, generator=draw)
        self.weight, self.bias = buffer[:, 2 : 2 + channels], buffer[:, -channels:]
        module = EvoNormHardSwish(channels, groups).double()
        self.expected = []
        for agent in range(AGENTS):
            x = samples[agent].double().requires_grad_()
            with torch.no_grad():
                module.weight.copy_(self.weight[agent].view(-1, 1, 1))
                module.bias.copy_(self.bias[agent].view(-1, 1, 1))
            out = module(x)
            of = x, module.weight, module.bias
            self.expected.append(
                (out.detach(), *torch.autograd.grad(out, of, gradient[agent].double()))
            )

    def results(self, backend: str | None = None) -> tuple[torch.Tensor, ...]:
        """Outputs and gradients of input, weight and bias; what they are written into is poisoned."""
        out, x_gradient = (torch.full_like(self.x, NAN) for _ in range(2))
        means = torch.full((*self.x.shape[:2], self.groups, BLOCK), NAN)
        inverses = torch.full_like(means, NAN)
        rows = self.weight, self.bias
        with use_backend(backend):
            lane_evonorm(self.x, *rows, self.groups, 1e-5, out, means, inverses)
        gradients = [torch.full_like(row, NAN) for row in rows]
        kept = self.weight, means, inverses
        with use_backend(backend):
            lane_evonorm_backward(self.gradient, self.x, *kept, x_gradient, *gradients)
        return to_samples(out, self.batch), to_samples(x_gradient, self.batch), *gradients


@pytest.mark.parametrize("backend", ["reference", NATIVE])
@pytest.mark.parametrize(
    ("batch", "channels", "groups", "size"),
    [
        (1, 8, 8, (3, 5)),
        (7, 6, 2, (1, 3)),
        (16, 8, 4, (9, 8)),
        (33, 10, 1, (4, 4)),
        (20, 3, 3, (3, 2)),
    ],
)
def test_it_is_the_module(
    backend: str, batch: int, channels: int, groups: int, size: tuple[int, int], seed: int
) -> None:
    case = Case(batch, channels, groups, size, seed)
    found = case.results(backend)
    for agent, expected in enumerate(case.expected):
        for got, wanted in zip(found, expected, strict=True):
            got, wanted = got[agent].double().flatten(), wanted.flatten()
            assert (got - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("backend", ["reference", NATIVE])
def test_the_gates_kinks_are_torchs(backend: str, seed: int) -> None:
    """One number in some millions is drawn there, and its gradient is one or the other side's."""
    x = torch.tensor([-3.0, 3.0, -0.0, 1.0]).repeat(BLOCK // 4).expand(1, 1, 2, 3, 3, BLOCK)
    draw = torch.Generator().manual_seed(seed)
    gradient = torch.randn(x.shape, generator=draw)
    x, weight = x.contiguous(), torch.ones(1, 2)
    # all means 0 and deviations 1: what is left is the gate's slope
    means, inverses = torch.zeros(1, 1, 1, BLOCK), torch.ones(1, 1, 1, BLOCK)
    found, of = torch.empty_like(x), x.clone().requires_grad_()
    with use_backend(backend):
        lane_evonorm_backward(gradient, x, weight, means, inverses, found, None, None)
    (slope,) = torch.autograd.grad(torch.nn.functional.hardswish(of), of, gradient)
    pull = (gradient * torch.nn.functional.hardswish(x)).sum((2, 3, 4), keepdim=True) / 18
    assert torch.allclose(found, slope - x * pull, rtol=1e-5, atol=1e-5)


@needs_native
def test_no_bit_depends_on_threads_or_agents(seed: int) -> None:
    case = Case(40, 8, 4, (5, 3), seed)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(case.results())
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    case.x, case.gradient = case.x[1:2].contiguous(), case.gradient[1:2].contiguous()
    case.weight, case.bias = case.weight[1:2], case.bias[1:2]
    assert all(torch.equal(a[1], b[0]) for a, b in zip(found[0], case.results(), strict=True))


def test_what_is_refused(seed: int) -> None:
    case = Case(5, 4, 2, (3, 3), seed)
    case.groups = 3
    with pytest.raises(ValueError, match="channels a multiple of the 3 groups"):
        case.results()
    case.groups, case.bias = 2, case.bias[:2]
    rule = r"bias must be torch.float32 \[agents, channels\] = \(3, 4\) on cpu, .*, got torch.float32 \(2"
    with pytest.raises(ValueError, match=rule):
        case.results()
