"""Convolutions by patches: values and gradients in float64 equal torch's own convolution, agent by agent."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.engines._patch_convolution import MappedLayers, StackedConvolution
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run import initial_models

pytestmark = pytest.mark.usefixtures("one_thread")
# channels, out, kernel, options
CASES: dict[str, tuple[int, int, tuple[int, int], dict[str, Any]]] = {
    "plain": (3, 4, (3, 3), {}),
    "one channel": (1, 6, (5, 5), {"padding": 2}),
    "pointwise": (5, 2, (1, 1), {"stride": 2}),
    "strided": (2, 3, (3, 3), {"stride": 2, "padding": 1}),
    "leaves rows out": (2, 3, (3, 2), {"stride": (4, 3)}),
    "dilated": (2, 3, (3, 2), {"dilation": (2, 3), "padding": (1, 2)}),
    "uneven": (2, 3, (2, 5), {"stride": (3, 1), "padding": (0, 4), "dilation": (3, 1)}),
    "grouped": (4, 6, (3, 3), {"groups": 2}),
    "depthwise": (4, 4, (3, 3), {"groups": 4, "padding": 1}),
    "same": (2, 3, (3, 3), {"padding": "same"}),
}


def by_patches(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, options: dict[str, Any]
) -> torch.Tensor:
    with MappedLayers(StackedConvolution.apply):
        if b is None:
            return torch.vmap(lambda x, w: F.conv2d(x, w, **options))(x, w)
        return torch.vmap(lambda x, w, b: F.conv2d(x, w, b, **options))(x, w, b)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_each_agent_gets_its_convolution(
    case: str, has_bias: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, out, kernel, options = CASES[case]
    torch.manual_seed(seed)
    groups = options.get("groups", 1)
    x = torch.randn(3, 2, channels, 9, 11, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, out, channels // groups, *kernel, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, out, dtype=torch.float64, requires_grad=True) if has_bias else None
    calls: list[Any] = []
    forward = StackedConvolution.forward
    monkeypatch.setattr(
        StackedConvolution,
        "forward",
        staticmethod(lambda ctx, *a: calls.append(a) or forward(ctx, *a)),
    )
    found = by_patches(x, w, b, options)
    # groups and padding by name are left to vmap
    assert len(calls) == (groups == 1 and options.get("padding") != "same")
    expected = torch.stack(
        [F.conv2d(x[i], w[i], None if b is None else b[i], **options) for i in range(3)]
    )
    wanted = [x, w] if b is None else [x, w, b]
    upstream = torch.randn_like(expected)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(found, wanted, upstream)
    for one, other in zip(got, torch.autograd.grad(expected, wanted, upstream), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_what_is_not_mapped_is_shared(seed: int) -> None:
    torch.manual_seed(seed)
    x, w = torch.randn(2, 1, 6, 6), torch.randn(4, 3, 1, 2, 2)
    with MappedLayers(StackedConvolution.apply):
        shared = torch.vmap(lambda w: F.conv2d(x, w))(w)
        turned = torch.vmap(lambda w: F.conv2d(x, w), in_dims=3)(w.movedim(0, 3))
        outside = F.conv2d(x, w[1])
    assert torch.allclose(shared[1], F.conv2d(x, w[1]), atol=1e-5)
    assert torch.allclose(turned, shared, atol=1e-6)
    assert torch.equal(outside, F.conv2d(x, w[1]))


@pytest.mark.parametrize(
    ("network", "shape", "tolerance"),
    [
        ("lenet5", (1, 28, 28), 1e-5),
        ("cnn5", (3, 17, 16), 1e-5),
        ("resnet20", (3, 16, 16), 1e-4),
    ],
)
def test_whole_networks(network: str, shape: tuple[int, ...], tolerance: float, seed: int) -> None:
    module = initial_models.build(network, shape, 10, seed=seed)
    stack = fs.AgentStack(module, 3, init="independent", seed=seed)
    torch.manual_seed(seed)
    inputs, targets = torch.randn(3, 4, *shape), torch.randint(0, 10, (3, 4))
    GradientEngine(stack, F.cross_entropy, "unfold", 2).gradients(inputs, targets)
    got = dict(stack.named_gradients())
    for i in range(3):
        model = stack.agent(i).double()
        F.cross_entropy(model(inputs[i].double()), targets[i]).backward()
        whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found = torch.cat([got[name][i].flatten() for name, _ in model.named_parameters()])
        assert (found - whole).norm() < tolerance * whole.norm()
