"""Stacked perceptrons: native code and reference agree with autograd in float64, write what they owe alone, and refuse.

Inputs and weights are small multiples of powers of two: sums before a ReLU are exact, so that no rounding moves one
across its kink.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsaddle.kernels.op import use_backend
from fastsaddle.kernels.stacked_perceptron import Layer, layer_table, stacked_perceptron

pytestmark = pytest.mark.usefixtures("one_thread")
# agents, samples, widths
SHAPES = (
    (1, 1, (1, 1)),
    (3, 5, (7, 4)),
    (5, 33, (21, 13, 5)),
    (130, 2, (3, 2, 2)),
    (4, 32, (50, 48, 17, 10)),
    (2, 70, (33, 65, 34, 3)),
    (17, 16, (64, 12, 24, 6, 7)),
)


def small(*shape: int, source: torch.Generator, least: int = 3) -> Tensor:
    return torch.randint(-8, 9, shape, generator=source) * 2.0**-least


def problem(
    agents: int, samples: int, widths: tuple[int, ...], seed: int, relu: bool = True
) -> dict[str, Any]:
    """Arguments with gaps between tensors and rows; every other layer has no bias."""
    source = torch.Generator().manual_seed(seed)
    layers, column = [], 5
    for k, (wide, narrow) in enumerate(pairwise(widths)):
        weight, column = column, column + wide * narrow + 3
        bias, column = (-1, column) if k % 2 else (column, column + narrow + 2)
        layers.append(Layer(wide, narrow, weight, bias, relu and k < len(widths) - 2))
    models = torch.full((agents, column + 37), float("nan"))
    for layer in layers:
        for rows in tensors(models, layer):
            rows.copy_(small(*rows.shape, source=source, least=5))
    return {
        "inputs": small(agents, samples, widths[0], source=source),
        "labels": torch.randint(0, widths[-1], (agents, samples), generator=source),
        "models": models,
        "gradients": torch.full_like(models, float("nan")),
        "losses": torch.full((agents,), float("nan")),
        "layers": layers,
    }


def tensors(rows: Tensor, layer: Layer) -> Iterator[Tensor]:
    """The parts of rows that hold a layer's weight and, where it has one, bias."""
    size = layer.inputs * layer.outputs
    yield rows[:, layer.weight : layer.weight + size].unflatten(1, (layer.outputs, layer.inputs))
    if layer.bias >= 0:
        yield rows[:, layer.bias : layer.bias + layer.outputs]


def call(backend: str, of: dict[str, Any]) -> None:
    with use_backend(backend):
        stacked_perceptron(**{**of, "layers": layer_table(of["layers"])})


def expected(of: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Losses, and gradients where tensors lie (NaN elsewhere), by autograd in float64."""
    models = of["models"].double().requires_grad_()
    h = of["inputs"].double()
    for layer in of["layers"]:
        weight, *bias = tensors(models, layer)
        h = h @ weight.mT + (bias[0][:, None] if bias else 0.0)
        h = h.relu() if layer.relu else h
    losses = torch.stack([F.cross_entropy(*pair) for pair in zip(h, of["labels"], strict=True)])
    (taken,) = torch.autograd.grad(losses.sum(), models)
    gradients = torch.full_like(taken, float("nan"))
    for layer in of["layers"]:
        for to, found in zip(tensors(gradients, layer), tensors(taken, layer), strict=True):
            to.copy_(found)
    return losses.detach(), gradients


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_equals_autograd_in_float64(backend: str, shape: Any, relu: bool, seed: int) -> None:
    of = problem(*shape, seed, relu)
    losses, gradients = expected(of)
    call(backend, of)
    assert torch.allclose(of["losses"].double(), losses, rtol=1e-5, atol=1e-6)
    most = gradients.nan_to_num(0.0).abs().amax()
    assert torch.allclose(
        of["gradients"].double(), gradients, rtol=1e-5, atol=1e-6 * float(most), equal_nan=True
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_depend_on_no_other_agent_and_no_thread(shape: Any, seed: int) -> None:
    of = problem(*shape, seed)
    of["inputs"].normal_()
    call("native", of)
    agents = len(of["losses"])
    for threads in (2, 3):
        again = {**of, "gradients": torch.zeros_like(of["models"])}
        again["losses"] = torch.zeros(agents)
        torch.set_num_threads(threads)
        call("native", again)
        torch.set_num_threads(1)
        assert torch.equal(again["losses"], of["losses"])
        for layer in of["layers"]:
            for one, other in zip(
                tensors(again["gradients"], layer), tensors(of["gradients"], layer), strict=True
            ):
                assert torch.equal(one, other)
    last = {n: v[-1:] if isinstance(v, Tensor) else v for n, v in of.items()}
    alone = {**last, "gradients": last["gradients"].clone(), "losses": torch.zeros(1)}
    call("native", alone)
    assert torch.equal(alone["losses"], last["losses"])
    assert torch.equal(alone["gradients"].nan_to_num(), last["gradients"].nan_to_num())


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_is_not_finite_stays_with_its_agent(backend: str, seed: int) -> None:
    of = problem(3, 5, (21, 13, 5), seed)
    of["inputs"][1, 2, 3] = float("nan")
    call(backend, of)
    weights = [next(tensors(of["gradients"], layer)) for layer in of["layers"]]
    assert [bool(weight.isfinite().all()) for weight in weights[0]] == [True, False, True]
    assert of["losses"].isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("label", [-1, 5, -100])
def test_labels_that_are_no_class_are_refused(backend: str, label: int, seed: int) -> None:
    of = problem(3, 5, (21, 13, 5), seed)
    of["labels"][2, 4] = label
    with pytest.raises(RuntimeError, match="out of bounds"):
        call(backend, of)
    assert of["gradients"].isnan().all() and of["losses"].isnan().all()


def test_wrong_arguments_are_refused(seed: int) -> None:
    of = problem(3, 5, (21, 13, 5), seed)
    wrong = {
        "inputs": of["inputs"].mT.contiguous().mT,
        "labels": of["labels"].int(),
        "models": of["models"].double(),
        "gradients": of["gradients"][:2],
        "losses": torch.zeros(4),
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            call("native", {**of, name: value})
    assert of["gradients"].isnan().all()
    for layers in ([], [of["layers"][0]] * 2):
        with pytest.raises(ValueError, match="layer"):
            layer_table(layers)


def test_registered_operator_passes_opcheck(seed: int) -> None:
    of = problem(3, 5, (21, 13, 5), seed)
    of["models"].nan_to_num_()
    of["gradients"].zero_()
    operator = torch.ops.fastsaddle.stacked_perceptron.default
    torch.library.opcheck(operator, (*list(of.values())[:-1], layer_table(of["layers"])))


def test_what_was_written_is_noticed(seed: int) -> None:
    of = problem(3, 5, (21, 13, 5), seed)
    before = of["gradients"]._version, of["losses"]._version
    with torch.no_grad():
        call("native", of)
    call("native", of)
    assert (of["gradients"]._version, of["losses"]._version) == tuple(v + 2 for v in before)
