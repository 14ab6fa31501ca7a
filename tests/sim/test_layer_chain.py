"""The batched engine: gradients of chains of linear layers equal the loop's, whatever the chain, chunk or loss."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim.engines._choice import choose_engine
from fastsaddle.sim.engines._layer_chain import LayerChain, layers_of
from fastsaddle.sim.engines._perceptron import Perceptron
from fastsaddle.sim.gradient_engine import GradientEngine

pytestmark = pytest.mark.usefixtures("one_thread")
CHAINS: dict[str, nn.Module] = {
    "perceptron": nn.Sequential(nn.Flatten(), nn.Linear(21, 13), nn.ReLU(), nn.Linear(13, 5)),
    "nested": nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(21, 7, bias=False), nn.Tanh()),
        nn.Sequential(nn.Linear(7, 11), nn.GELU(), nn.Identity()),
        nn.Linear(11, 5),
    ),
    "no-flatten": nn.Sequential(nn.Linear(7, 4), nn.SiLU(), nn.Flatten(), nn.Linear(12, 5)),
    "one": nn.Sequential(nn.Flatten(), nn.Linear(21, 5)),
    "alone": nn.Linear(7, 5),
    # it may not write over what the features are, nor what its own backward pass needs
    "in-place": nn.Sequential(
        nn.Tanh(), nn.Flatten(), nn.Linear(21, 6), nn.ELU(inplace=True), nn.Linear(6, 5)
    ),
}
UNKNOWN: dict[str, nn.Module] = {
    "convolution": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)),
    "normalization": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
    "softmax": nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=1)),
    "half-flat": nn.Sequential(nn.Flatten(2), nn.Linear(3, 3)),
    "no-linear": nn.Sequential(nn.ReLU()),
    "own": nn.ModuleList([nn.Linear(3, 3)]),
    "twice": nn.Sequential(*[nn.Linear(3, 3)] * 2),
}


def problem(
    name: str, seed: int, agents: int = 5
) -> tuple[fs.AgentStack, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    stack = fs.AgentStack(CHAINS[name], agents, init="independent", seed=seed)
    for _, g in stack.named_gradients():
        g.fill_(float("nan"))
    samples = (7,) if name == "alone" else (3, 7)
    return stack, torch.randn(agents, 6, *samples), torch.randint(0, 5, (agents, 6))


def gradients(stack: fs.AgentStack) -> torch.Tensor:
    return torch.cat([g.flatten(1) for _, g in stack.named_gradients()], dim=1).clone()


def smooth(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.square().mean(1) * (1 + targets)).mean()


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("loss", [F.cross_entropy, smooth])
@pytest.mark.parametrize(("chunk", "threads"), [(None, 1), (2, 1), (None, 2)])
def test_gradients_equal_the_loop(
    name: str, loss: Any, chunk: int | None, threads: int, seed: int
) -> None:
    stack, inputs, targets = problem(name, seed)
    torch.set_num_threads(threads)
    losses = GradientEngine(stack, loss, "batched", chunk).gradients(inputs, targets)
    torch.set_num_threads(1)
    got = gradients(stack)
    expected = GradientEngine(stack, loss, "loop").gradients(inputs, targets)
    assert losses.shape == (5,) and not losses.requires_grad
    assert torch.allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(got, gradients(stack), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["perceptron", "one", "alone", "nested", "no-flatten", "in-place"])
def test_a_perceptron_is_one_call(name: str, seed: int) -> None:
    stack, inputs, targets = problem(name, seed)
    whole = Perceptron(stack)
    is_one = name in ("perceptron", "one", "alone")
    assert whole.takes(inputs, targets, F.cross_entropy, "float32") == is_one
    for changed in (
        (inputs, targets, smooth, "float32"),
        (inputs, targets, F.cross_entropy, "bfloat16"),
        (inputs, targets.float(), F.cross_entropy, "float32"),
        (inputs[..., :6], targets, F.cross_entropy, "float32"),
    ):
        assert not whole.takes(*changed)
    next(stack.parameters()).requires_grad_(False)
    assert not whole.takes(inputs, targets, F.cross_entropy, "float32")


def test_again_is_the_same_bits_and_padding_is_left_alone(seed: int) -> None:
    stack, inputs, targets = problem("nested", seed)
    stack.g.zero_()
    engine = GradientEngine(stack, F.cross_entropy, "batched")
    engine.gradients(inputs, targets)
    first = stack.g.clone()
    engine.gradients(inputs, targets)
    assert torch.equal(stack.g, first)
    free = torch.ones(stack.layout.stride, dtype=torch.bool)
    for offset, shape in zip(stack.layout.offsets, stack.layout.shapes, strict=True):
        free[offset : offset + shape.numel()] = False
    assert not stack.g[:, free].any()


def test_frozen_parameters_get_zeros(seed: int) -> None:
    stack, inputs, targets = problem("perceptron", seed)
    for name, p in stack.named_parameters():
        p.requires_grad_(name in ("1.weight", "3.bias"))
    GradientEngine(stack, F.cross_entropy, "batched").gradients(inputs, targets)
    for name, g in stack.named_gradients():
        assert bool(g.any()) == (name in ("1.weight", "3.bias")) and g.isfinite().all()


def test_features_and_more_come_back(seed: int) -> None:
    stack, inputs, targets = problem("perceptron", seed)

    def loss(outputs: Any, targets: Any) -> Any:
        logits, hidden = outputs
        return F.cross_entropy(logits, targets["y"]) + hidden.square().mean(), hidden

    results = []
    for engine in ("batched", "loop"):
        found = GradientEngine(stack, F.cross_entropy, engine).gradients(
            inputs, {"y": targets}, loss, "3"
        )
        results.append((*found, gradients(stack)))
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert results[0][1].shape == (5, 6, 13)


def test_dropout_draws_for_each_agent(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(21, 5))
    stack = fs.AgentStack(net, 3)
    inputs = torch.randn(1, 6, 3, 7).expand(3, 6, 3, 7)
    targets = torch.zeros(3, 6, dtype=torch.int64)
    engine = GradientEngine(stack, F.cross_entropy, "batched")
    losses = engine.gradients(inputs, targets)
    assert len(set(losses.tolist())) == 3
    stack.eval()
    assert len(set(engine.gradients(inputs, targets).tolist())) == 1


def test_a_training_step_agrees_with_vmap(seed: int) -> None:
    found = []
    for engine in ("batched", "vmap"):
        stack, inputs, targets = problem("nested", seed)
        optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, topology="ring", rho=0.1)
        gradient = GradientEngine(stack, F.cross_entropy, engine)
        for _ in range(5):
            optimizer.step(lambda g=gradient, i=inputs, t=targets: g.gradients(i, t).mean())
        found.append(stack.x.clone())
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5)


def test_features_before_a_layer_that_writes_in_place(seed: int) -> None:
    def loss(outputs: Any, targets: Any) -> Any:
        return F.cross_entropy(outputs[0], targets) + outputs[1].pow(3).mean(), outputs[1]

    stack, inputs, targets = problem("in-place", seed)
    (losses, found), got = (
        GradientEngine(stack, loss, "batched").gradients(inputs, targets, features="3"),
        gradients(stack),
    )
    for agent in range(5):
        model = stack.agent(agent)
        assert isinstance(model, nn.Sequential)
        before = model[:3](inputs[agent])
        value = F.cross_entropy(model[4](F.elu(before)), targets[agent]) + before.pow(3).mean()
        parameters = list(model.parameters())
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
        assert torch.allclose(losses[agent], value, rtol=1e-5)
        assert torch.allclose(found[agent], before, rtol=1e-5, atol=1e-6)
        assert torch.allclose(got[agent], expected, rtol=1e-4, atol=1e-6)


def test_labels_that_are_no_class_are_refused(seed: int) -> None:
    stack, inputs, targets = problem("one", seed)
    targets[3, 2] = 5
    with pytest.raises(RuntimeError, match="out of bounds"):
        GradientEngine(stack, F.cross_entropy, "batched").gradients(inputs, targets)


def test_targets_may_be_probabilities(seed: int) -> None:
    stack, inputs, _ = problem("one", seed)
    targets = torch.rand(5, 6, 5).softmax(2)
    losses = GradientEngine(stack, F.cross_entropy, "batched").gradients(inputs, targets)
    got = gradients(stack)
    expected = GradientEngine(stack, F.cross_entropy, "loop").gradients(inputs, targets)
    assert torch.allclose(losses, expected, rtol=1e-5)
    assert torch.allclose(got, gradients(stack), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_networks_are_refused(name: str) -> None:
    assert layers_of(UNKNOWN[name]) is None
    if name != "no-linear":
        stack = fs.AgentStack(UNKNOWN[name], 3)
        with pytest.raises(ValueError, match="a chain must be a Sequential of Linear"):
            LayerChain(stack)


def test_hooks_are_not_skipped() -> None:
    net = nn.Sequential(nn.Linear(3, 3))
    assert layers_of(net) is not None
    net[0].register_forward_hook(lambda *_: None)
    assert layers_of(net) is None


@pytest.mark.parametrize("agents", [2, 4, 16])
def test_chains_are_chosen(agents: int) -> None:
    cpu = torch.device("cpu")
    assert choose_engine(CHAINS["perceptron"], cpu, agents) == "batched"
    assert choose_engine(CHAINS["perceptron"], cpu, 1) == "loop"


def test_a_batch_is_left_as_it_was(seed: int) -> None:
    first_in_place = nn.Sequential(nn.ELU(inplace=True), nn.Linear(7, 5))
    stack = fs.AgentStack(first_in_place, 4, init="independent", seed=seed)
    inputs, labels = torch.randn(4, 6, 7), torch.randint(0, 5, (4, 6))
    before = inputs.clone()
    GradientEngine(stack, F.cross_entropy, "batched").gradients(inputs, labels)
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("engine", ["batched", "lanes"])
def test_samples_may_be_left_out(engine: str, seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(18 if engine == "lanes" else 32, 5)]
    front = [nn.Conv2d(2, 2, 2), nn.ReLU()] if engine == "lanes" else []
    stack = fs.AgentStack(nn.Sequential(*front, *layers), 4, init="independent", seed=seed)
    inputs, labels = torch.randn(4, 6, 2, 4, 4), torch.randint(0, 5, (4, 6))
    labels[1, 2] = labels[2, :5] = -100
    losses = GradientEngine(stack, F.cross_entropy, engine).gradients(inputs, labels)
    found = gradients(stack)
    expected = GradientEngine(stack, F.cross_entropy, "loop").gradients(inputs, labels)
    assert torch.allclose(losses, expected, rtol=1e-5)
    assert (found - gradients(stack)).norm() <= 1e-5 * found.norm()


class Named(nn.Sequential):
    """A class of the user's that adds nothing to passes."""


def test_a_sequential_of_ones_own_class_is_a_chain(seed: int) -> None:
    chain = CHAINS["perceptron"]
    assert isinstance(chain, nn.Sequential)
    assert list(layers_of(Named(*chain)) or {}) == list(layers_of(chain) or {})
    assert choose_engine(Named(*chain), torch.device("cpu"), 16) == "batched"


@pytest.mark.parametrize("features", ["", "1", "1.0"])
def test_features_of_a_part_are_those_of_its_first_layer(features: str, seed: int) -> None:
    stack, inputs, _ = problem("nested", seed)
    engine = GradientEngine(stack, smooth, "batched")
    loop = GradientEngine(stack, smooth, "loop")
    targets = torch.rand(5, 6)

    def loss(got: Any, targets: torch.Tensor) -> Any:
        outputs, phi = got
        return smooth(outputs, targets) + phi.square().mean(), phi

    _, found = engine.gradients(inputs, targets, loss, features)
    mine = gradients(stack)
    _, expected = loop.gradients(inputs, targets, loss, features)
    assert torch.allclose(found, expected, atol=1e-6)
    assert (mine - gradients(stack)).norm() <= 1e-5 * mine.norm()


@pytest.mark.parametrize("kind", ["hook", "backward", "forward"])
def test_layers_that_are_changed_later_are_asked(kind: str, seed: int) -> None:
    stack, inputs, targets = problem("perceptron", seed)
    engine = GradientEngine(stack, F.cross_entropy, "auto")
    engine.gradients(inputs, targets)
    plain = gradients(stack)
    relu: Any = stack.template[2]
    if kind == "hook":
        relu.register_forward_hook(lambda module, given, got: got * 2)
    elif kind == "backward":
        relu.register_full_backward_hook(lambda module, got, gave: (got[0] * 2,))
    else:
        relu.forward = lambda x: x.tanh()
    with pytest.warns(RuntimeWarning, match="without hooks or a forward of its own"):
        engine.gradients(inputs, targets)
    changed = gradients(stack)
    GradientEngine(stack, F.cross_entropy, "loop").gradients(inputs, targets)
    assert torch.equal(changed, gradients(stack)) and not torch.allclose(changed, plain)
    with pytest.raises(ValueError, match="without hooks or a forward of its own"):
        GradientEngine(stack, F.cross_entropy, "batched")
