"""Sharpness measures against closed forms on quadratics and float64 oracles on small networks."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.sharpness.normalization import normalization_parameters
from fastsaddle.sharpness.surface import directions
from tests.optimizers.sharpness_cases import (
    anything,
    flat,
    loss_of,
    mean_output,
    network,
    quadratic,
    state,
)

pytestmark = pytest.mark.usefixtures("one_thread")

MEASURES = (
    sharpness.mean_loss,
    sharpness.sam_sharpness,
    sharpness.top_eigenvalue,
    sharpness.trace,
    sharpness.loss_surface,
)


def directions_of(model: nn.Module, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """The two directions of a plain module."""
    named = {n: p.detach()[None] for n, p in model.named_parameters() if p.requires_grad}
    d, e = directions(named, normalization_parameters(model), seed)
    return [q[0] for q in d], [q[0] for q in e]


@pytest.mark.parametrize("batch_size", [1, 5, 17, 100])
def test_mean_loss_counts_every_sample_once(batch_size: int, seed: int) -> None:
    model, inputs, targets = network(seed)
    expected = loss_of(model, inputs, targets)(flat(model)).item()
    found = sharpness.mean_loss(model, F.cross_entropy, inputs, targets, batch_size)
    assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("rho", [0.0, 0.05, 1.7])
def test_sam_sharpness_of_a_quadratic(rho: float, seed: int) -> None:
    model, A, b, x = quadratic(seed, [3.0, 1.0, -0.5, 0.25, 2.0])
    g = A @ x + b
    e = rho * g / np.linalg.norm(g)
    found = sharpness.sam_sharpness(model, mean_output, *anything(7), rho=rho, batch_size=3)
    assert found == pytest.approx(g @ e + e @ A @ e / 2, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 5, 17, 100])
def test_sam_sharpness_of_a_network(batch_size: int, seed: int) -> None:
    model, inputs, targets = network(seed)
    loss, x = loss_of(model, inputs, targets), flat(model)
    g = torch.func.grad(loss)(x)
    expected = loss(x + 0.3 * g / g.norm()) - loss(x)
    found = sharpness.sam_sharpness(model, F.cross_entropy, inputs, targets, 0.3, batch_size)
    assert found == pytest.approx(expected.item(), abs=1e-11)


def test_sam_sharpness_where_the_gradient_is_zero(seed: int) -> None:
    model, *_ = quadratic(seed, [1.0, 2.0, 3.0])
    model.b.zero_()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert sharpness.sam_sharpness(model, mean_output, *anything(4)) == 0.0


@pytest.mark.parametrize(
    "eigenvalues", [[3.0, 1.0, -0.5, 0.25, 2.0], [-4.0, 1.0, 3.0], [0.01, 0.002, 0.005, -0.001]]
)
def test_top_eigenvalue_of_a_quadratic(eigenvalues: list[float], seed: int) -> None:
    model, *_ = quadratic(seed, eigenvalues)
    found = sharpness.top_eigenvalue(
        model, mean_output, *anything(7), tolerance=1e-6, iterations=400, batch_size=4
    )
    assert found == pytest.approx(max(eigenvalues, key=abs), rel=1e-6)


def test_top_eigenvalue_of_a_network(seed: int) -> None:
    model, inputs, targets = network(seed)
    hessian = torch.func.hessian(loss_of(model, inputs, targets))(flat(model))
    largest = max(torch.linalg.eigvalsh(hessian).tolist(), key=abs)
    found = sharpness.top_eigenvalue(
        model, F.cross_entropy, inputs, targets, iterations=20_000, tolerance=1e-3, batch_size=6
    )
    assert found == pytest.approx(largest, rel=2e-3)
    again = sharpness.top_eigenvalue(
        model, F.cross_entropy, inputs, targets, iterations=20_000, tolerance=1e-3, batch_size=6
    )
    assert again == found


def test_top_eigenvalue_says_when_it_did_not_converge(seed: int) -> None:
    # opposite eigenvalues: the Rayleigh quotient stands still, but far from both
    model, *_ = quadratic(seed, [1.0, -1.0, 0.5])
    with pytest.warns(RuntimeWarning, match=r"is within .* of .* after 30 iterations"):
        sharpness.top_eigenvalue(model, mean_output, *anything(2), iterations=30)


def test_top_eigenvalue_of_a_linear_loss_is_zero(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(3, 1, bias=False)
    inputs = torch.randn(5, 3)
    assert sharpness.top_eigenvalue(model, mean_output, inputs, inputs) == 0.0


@pytest.mark.parametrize("probes", [2, 7, 200])
def test_trace_of_a_quadratic(probes: int, seed: int) -> None:
    model, A, *_ = quadratic(seed, [3.0, 1.0, -0.5, 0.25, 2.0, 4.5])
    found = sharpness.trace(
        model, mean_output, *anything(7), probes=probes, seed=seed, batch_size=3
    )
    # of z^T A z for random signs z
    error = math.sqrt(2 * (A**2).sum() - 2 * (np.diag(A) ** 2).sum()) / math.sqrt(probes)
    assert abs(found.estimate - np.trace(A)) < 6 * error
    if probes > 100:
        assert found.standard_error == pytest.approx(error, rel=0.4)


def test_trace_of_a_diagonal_quadratic_is_exact(seed: int) -> None:
    model, *_ = quadratic(seed, [3.0, 1.0, -0.5])
    model.A.copy_(torch.diag(torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64)))
    found = sharpness.trace(model, mean_output, *anything(4), probes=3, seed=seed)
    assert found.estimate == pytest.approx(3.5, abs=1e-13)
    assert found.standard_error == pytest.approx(0, abs=1e-13)


def test_trace_of_a_network_is_within_its_standard_error(seed: int) -> None:
    model, inputs, targets = network(seed)
    exact = torch.func.hessian(loss_of(model, inputs, targets))(flat(model)).trace().item()
    data = model, F.cross_entropy, inputs, targets
    found = sharpness.trace(*data, probes=100, seed=seed, batch_size=9)
    assert 0 < abs(found.estimate - exact) < 5 * found.standard_error
    few = sharpness.trace(*data, probes=3, seed=seed)
    assert sharpness.trace(*data, probes=3, seed=seed) == few
    assert sharpness.trace(*data, probes=3, seed=seed ^ 1) != few


def test_surface_of_a_linear_model_is_its_quadratic(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(4, 3).double()
    inputs, targets = torch.randn(11, 4).double(), torch.randn(11, 3).double()
    surface = sharpness.loss_surface(
        model, F.mse_loss, inputs, targets, extent=0.5, points=5, seed=seed, batch_size=4
    )
    assert surface.shape == (5, 5) and surface.dtype == torch.float64
    d, e = directions_of(model, seed)
    assert not d[1].any() and not e[1].any()
    for i, a in enumerate((-0.5, -0.25, 0, 0.25, 0.5)):
        for j, b in enumerate((-0.5, -0.25, 0, 0.25, 0.5)):
            W = model.weight + a * d[0] + b * e[0]
            expected = (inputs @ W.T + model.bias - targets).square().mean().item()
            assert surface[i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("points", [3, 7])
def test_the_center_of_the_surface_is_the_model(points: int, seed: int) -> None:
    model, inputs, targets = network(seed, torch.float32)
    surface = sharpness.loss_surface(
        model, F.cross_entropy, inputs, targets, extent=0.3, points=points, batch_size=17
    )
    model.eval()
    center = surface[points // 2, points // 2]
    assert center.item() == F.cross_entropy(model(inputs), targets).item()
    assert len(surface.unique()) > points


def test_directions_are_normalized_and_orthogonal_by_filter(seed: int) -> None:
    model, _, _ = network(seed)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    d, e = (dict(zip(names, part, strict=True)) for part in directions_of(model, seed))
    moving = {"convolution.weight", "first.weight", "last.weight"}
    assert {name for name in names if d[name].any()} == moving
    assert {name for name in names if e[name].any()} == moving
    parameters = dict(model.named_parameters())
    for name in moving:
        for k, filter in enumerate(parameters[name]):
            for direction in (d, e):
                assert direction[name][k].norm().item() == pytest.approx(filter.norm().item())
            cosine = (d[name][k] * e[name][k]).sum() / filter.norm() ** 2
            assert abs(cosine.item()) < 1e-12


def test_directions_of_one_architecture_differ_in_scale_only(seed: int) -> None:
    first, _, _ = network(seed)
    second, _, _ = network(seed ^ 1)
    one, other, third = (directions_of(m, s) for m, s in ((first, 5), (second, 5), (first, 6)))
    for a, b, c in zip(one[1], other[1], third[1], strict=True):
        if a.any():
            assert torch.allclose(F.normalize(a.flatten(1)), F.normalize(b.flatten(1)))
            assert not torch.allclose(a, b) and not torch.allclose(a, c)


def test_filters_of_one_weight_and_norms_of_any_shape(seed: int) -> None:
    class MyNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

    torch.manual_seed(seed)
    layer = nn.Linear(1, 3)
    model = nn.Sequential(layer, MyNorm())
    for direction in directions_of(model, seed):
        weight, bias, scale = direction
        assert torch.allclose(weight.abs(), layer.weight.abs())
        assert not bias.any() and not scale.any()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("gradients", [True, False])
def test_the_model_stays_as_it_was(
    measure: Callable[..., object], gradients: bool, seed: int
) -> None:
    model, inputs, targets = network(seed)
    model.train()
    model.norm.eval()
    before, random = state(model), torch.get_rng_state()
    few = {
        sharpness.top_eigenvalue: {"tolerance": math.inf},
        sharpness.trace: {"probes": 2},
        sharpness.loss_surface: {"points": 3},
    }
    with torch.set_grad_enabled(gradients):
        measure(model, F.cross_entropy, inputs, targets, **few.get(measure, {}))
        assert torch.is_grad_enabled() is gradients
    assert state(model) == before and torch.equal(torch.get_rng_state(), random)

    def fail(outputs: Tensor, targets: Tensor) -> Tensor:
        raise ArithmeticError("in the middle")

    with pytest.raises(ArithmeticError, match="in the middle"):
        measure(model, fail, inputs, targets)
    assert state(model) == before


@pytest.mark.parametrize("measure", MEASURES)
def test_wrong_arguments(measure: Callable[..., object], seed: int) -> None:
    model, inputs, targets = network(seed)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        measure(model, F.cross_entropy, inputs, targets, batch_size=0)
    with pytest.raises(ValueError, match="equally many and at least one, got 17 and 16"):
        measure(model, F.cross_entropy, inputs, targets[1:])
    with pytest.raises(ValueError, match="equally many and at least one, got 0 and 0"):
        measure(model, F.cross_entropy, inputs[:0], targets[:0])
    with pytest.raises(ValueError, match="loss must give a scalar, got shape \\(17, 4\\)"):
        measure(model, lambda outputs, targets: outputs, inputs, targets)
    with pytest.raises(ValueError, match="no parameters that require gradients"):
        measure(nn.ReLU(), F.cross_entropy, inputs, targets)


def test_wrong_numbers(seed: int) -> None:
    model, inputs, targets = network(seed)
    data = (model, F.cross_entropy, inputs, targets)
    for rho in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="rho must be finite and >= 0, got"):
            sharpness.sam_sharpness(*data, rho=rho)
    with pytest.raises(ValueError, match="iterations must be >= 1, got 0"):
        sharpness.top_eigenvalue(*data, iterations=0)
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be > 0, got"):
            sharpness.top_eigenvalue(*data, tolerance=tolerance)
    with pytest.raises(ValueError, match="probes must be >= 2, got 1"):
        sharpness.trace(*data, probes=1)
    for points in (1, 4, 0):
        with pytest.raises(ValueError, match=f"points must be odd and >= 3, got {points}"):
            sharpness.loss_surface(*data, points=points)
    for extent in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="extent must be finite and > 0, got"):
            sharpness.loss_surface(*data, extent=extent)
