"""The engine lanes: chains of convolutions give what their modules give, whatever the geometry, batch or loss."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.kernels.lane_convolution import are_fast, lane_convolution
from fastsaddle.sim.engines._choice import choose_engine
from fastsaddle.sim.engines._convolution_chain import in_lanes
from fastsaddle.sim.engines._lane_path import unknown_layer
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.networks._norms import EvoNormHardSwish
from fastsaddle.sim.networks.resnet20 import FAMILIES, Block

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif("native" in lane_convolution.unavailable(CPU), reason="no native library"),
]
AGENTS, SHAPE = 5, (2, 19, 17)
CHAINS: dict[str, nn.Sequential] = {
    "lenet": nn.Sequential(
        *(nn.Conv2d(2, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 9, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(9 * 3 * 3, 12), nn.ReLU(), nn.Linear(12, 5)),
    ),
    "odd": nn.Sequential(
        nn.Conv2d(2, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        *(nn.Tanh(), nn.AvgPool2d(2)),
        nn.Sequential(nn.Conv2d(5, 7, 3, bias=False), nn.MaxPool2d(3, 1, 1)),
        *(nn.Conv2d(7, 3, 1, stride=(1, 2)), nn.MaxPool2d(2, ceil_mode=True), nn.GELU()),
        *(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Dropout(0.0), nn.Linear(6, 5)),
    ),
    # elementwise layers before the first convolution, and some that write in place
    "in-place": nn.Sequential(
        *(nn.Sigmoid(), nn.Conv2d(2, 4, 4, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        *(nn.ELU(inplace=True), nn.Flatten(), nn.ELU(inplace=True), nn.Linear(24, 5)),
    ),
}
CHAINS["residual"] = nn.Sequential(
    nn.Sequential(Block(2, 8, FAMILIES["ngc"]), Block(8, 8, FAMILIES["ngc"])),
    *(nn.Conv2d(8, 8, 3, bias=False), EvoNormHardSwish(8, 4), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(8 * 4 * 3, 5)),
)
LENET = CHAINS["lenet"]
UNKNOWN: dict[str, nn.Module] = {
    "groups": nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(9, 2)),
    "same": nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.Flatten(), nn.Linear(9, 2)),
    "reflected": nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(9, 2)
    ),
    "norm": nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(9, 2)),
    "indices": nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.MaxPool2d(2, return_indices=True), nn.Flatten(), nn.Linear(9, 2)
    ),
    "linear first": nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 3), nn.Flatten()),
    "convolution last": nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Conv2d(2, 2, 3), nn.Linear(2, 2)
    ),
    "other family": nn.Sequential(
        Block(2, 8, FAMILIES["groupnorm"]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    ),
    "never flat": nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(2, 2)),
    "no convolution": nn.Sequential(nn.Flatten(), nn.Linear(2, 2)),
}


# float32 and float64 may take two sides of a ReLU, or two maxima of a window, that lie closer together
MARGIN = 1e-6


def problem(name: str, batch: int, seed: int) -> tuple[fs.AgentStack, torch.Tensor, torch.Tensor]:
    """Agents and a batch; drawn anew where rounding would decide which of two gradients is right."""
    for draw in itertools.count(seed):
        torch.manual_seed(draw)
        stack = fs.AgentStack(CHAINS[name], AGENTS, init="independent", seed=draw)
        inputs = torch.randn(AGENTS, batch, *SHAPE)
        if all(is_decided(exact(stack, k), x.double()) for k, x in enumerate(inputs)):
            break
    for _, g in stack.named_gradients():
        g.fill_(float("nan"))
    return stack, inputs, torch.randint(0, 5, (AGENTS, batch))


@torch.no_grad()
def is_decided(model: nn.Sequential, inputs: torch.Tensor) -> bool:
    """Whether all its ReLUs and maxima are away from where they turn."""
    margins = []

    def relu(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        margins.append(given[0].abs().min())

    def pool(layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        size, step = layer.kernel_size, layer.stride
        windows = given[0].unfold(2, size, step).unfold(3, size, step).flatten(4)
        first, second = windows.topk(2).values.unbind(-1)
        # numbers that are equal come of the same ones, or were cut off by a ReLU
        margins.append((first - second)[first != second].min())

    for layer in model.modules():
        if isinstance(layer, nn.ReLU | nn.MaxPool2d):
            layer.register_forward_pre_hook(relu if isinstance(layer, nn.ReLU) else pool)
    model(inputs)
    return all(margin > MARGIN for margin in margins)


def exact(stack: fs.AgentStack, agent: int) -> nn.Sequential:
    """An agent's model in float64, which writes nothing in place."""
    model: Any = stack.agent(agent).double()
    for layer in model.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False
    return model


def check(stack: fs.AgentStack, agent: int, model: nn.Module) -> None:
    gradients = dict(stack.named_gradients())
    for name, p in model.named_parameters():
        got = gradients[name][agent]
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        assert (got - expected).norm() <= 1e-5 * expected.norm() + 1e-7, name


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("batch", "chunk"), [(1, None), (7, 2), (16, None), (33, 4)])
def test_gradients_are_those_of_plain_modules(
    name: str, batch: int, chunk: int | None, seed: int
) -> None:
    stack, inputs, targets = problem(name, batch, seed)
    engine = GradientEngine(stack, F.cross_entropy, "lanes", chunk)
    losses = engine.gradients(inputs, targets)
    for agent in range(AGENTS):
        model = exact(stack, agent)
        loss = F.cross_entropy(model(inputs[agent].double()), targets[agent])
        loss.backward()
        assert torch.allclose(losses[agent].double(), loss, rtol=1e-5)
        check(stack, agent, model)
    first = stack.g.clone()
    engine.gradients(inputs, targets)
    assert torch.equal(stack.g, first) and not losses.requires_grad


@pytest.mark.parametrize("name", CHAINS)
def test_features_of_every_layer(name: str, seed: int) -> None:
    def loss(outputs: Any, targets: torch.Tensor) -> Any:
        return F.cross_entropy(outputs[0], targets) + outputs[1].pow(2).mean(), outputs[1]

    stack, inputs, targets = problem(name, 7, seed)
    engine = GradientEngine(stack, F.cross_entropy, "lanes")
    layers = [n for n, m in stack.template.named_modules() if type(m) is not nn.Sequential]
    layers = (
        layers if name != "residual" else ["0.0", "0.1.body.2", "0.0.shortcut.1", "0.1.after", "2"]
    )
    for layer in layers:
        losses, found = engine.gradients(inputs, targets, loss, layer)
        outputs, again = engine.outputs(inputs, features=layer)
        assert torch.allclose(found, again, atol=1e-5)
        for agent in range(0, AGENTS, 2):
            model, kept = exact(stack, agent), []
            model.get_submodule(layer).register_forward_pre_hook(
                lambda _, a, kept=kept: kept.append(a[0])
            )
            its = model(inputs[agent].double())
            value, expected = loss((its, kept[0]), targets[agent])
            value.backward()
            assert torch.allclose(losses[agent].double(), value, rtol=1e-5), layer
            assert torch.allclose(found[agent].double(), expected, atol=1e-5), layer
            assert torch.allclose(outputs[agent].double(), its, atol=1e-5), layer
            check(stack, agent, model)


def test_frozen_parameters_get_zeros(seed: int) -> None:
    stack, inputs, targets = problem("lenet", 9, seed)
    wanted = ("0.bias", "3.weight", "9.weight")
    for name, p in stack.named_parameters():
        p.requires_grad_(name in wanted)
    for _, g in stack.named_gradients():
        g.fill_(float("nan"))
    GradientEngine(stack, F.cross_entropy, "lanes").gradients(inputs, targets)
    for name, g in stack.named_gradients():
        assert bool(g.any()) == (name in wanted) and g.isfinite().all()
    model = exact(stack, 2)
    for name, p in model.named_parameters():
        p.requires_grad_(name in wanted)
    F.cross_entropy(model(inputs[2].double()), targets[2]).backward()
    check(stack, 2, model)


def test_outputs_of_anybodys_model_in_evaluation(seed: int) -> None:
    stack, inputs, _ = problem("odd", 20, seed)
    stack.eval()
    engine = GradientEngine(stack, F.cross_entropy, "lanes", 2)
    stack.g.normal_()
    before = stack.x.clone(), stack.g.clone()
    whose = [3, 0, 3, 4, 1]
    shared = inputs[1:2].expand(AGENTS, *inputs.shape[1:])
    for batches in (inputs, shared):
        found = engine.outputs(batches, torch.tensor(whose))
        for agent, other in enumerate(whose):
            expected = exact(stack, other)(batches[agent].double())
            assert torch.allclose(found[agent].double(), expected, atol=1e-5)
    assert torch.equal(stack.x, before[0]) and torch.equal(stack.g, before[1])


def test_any_loss_and_a_training_step(seed: int) -> None:
    def smooth(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.square().mean(1) * (1 + targets)).mean()

    found = []
    for name in ("lanes", "loop"):
        stack, inputs, targets = problem("lenet", 6, seed)
        optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, topology="ring", rho=0.1)
        engine = GradientEngine(stack, smooth, name)
        for _ in range(4):
            optimizer.step(lambda e=engine, i=inputs, t=targets: e.gradients(i, t).mean())
        found.append(stack.x.clone())
    assert torch.allclose(*found, rtol=1e-3, atol=1e-5)


def test_a_plain_model_in_lanes(seed: int) -> None:
    stack, inputs, _ = problem("lenet", 40, seed)
    model = stack.agent(1).eval()
    forward = in_lanes(model, inputs[0])
    assert forward is not None
    assert torch.allclose(forward(inputs[0]), model(inputs[0]), atol=1e-5)
    assert in_lanes(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), inputs[0]) is None
    assert in_lanes(model, inputs[0, 0, 0]) is None


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_networks_are_refused(name: str) -> None:
    assert "it must be a Sequential of Conv2d" in str(unknown_layer(UNKNOWN[name]))
    stack = fs.AgentStack(UNKNOWN[name], 2)
    with pytest.raises(ValueError, match="engine lanes cannot run: it must be a Sequential of Con"):
        GradientEngine(stack, F.cross_entropy, "lanes")
    assert choose_engine(UNKNOWN[name], CPU, 16) != "lanes"


def test_when_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, inputs, targets = problem("lenet", 3, 0)
    for precision, agents in (("float32", 1), ("float32", 16), ("bfloat16", 16)):
        chosen = choose_engine(LENET, CPU, agents, precision)
        assert (chosen == "lanes") == (precision == "float32" and are_fast())
    assert choose_engine(LENET, torch.device("cuda"), 16) == "vmap"
    wide, normed = (
        nn.Sequential(nn.Conv2d(1, 96, 3), norm, nn.Flatten(), nn.Linear(96, 2))
        for norm in (nn.ReLU(), EvoNormHardSwish(96))
    )
    for module, batch, is_fast in (
        *((LENET, 3, True), (wide, 32, False), (normed, 32, True)),
        *((normed, 8, False), (normed, None, True), (normed, 24, True), (normed, 17, False)),
    ):
        chosen = choose_engine(module, CPU, 16, batch=batch)
        assert chosen == ("lanes" if is_fast and are_fast() else "threads")
    engine = GradientEngine(stack, F.cross_entropy, "lanes")
    with pytest.raises(
        ValueError, match=r"float32 \[agents, batch, channels, height, width\], got"
    ):
        engine.gradients(inputs[:, 0], targets)
    with pytest.raises(ValueError, match="lanes cannot run: it takes float32 only, got bfloat16"):
        GradientEngine(stack, F.cross_entropy, "lanes", precision="bfloat16")
    with pytest.raises(ValueError, match="the kernel must fit"):
        GradientEngine(stack, F.cross_entropy, "lanes").gradients(
            torch.zeros(AGENTS, 3, 2, 3, 3), targets
        )
    monkeypatch.setattr(lane_convolution, "unavailable", lambda _: {"native": "there is none"})
    assert choose_engine(LENET, CPU, 16) == "threads"
    with pytest.raises(ValueError, match="engine lanes cannot run: there is none"):
        GradientEngine(stack, F.cross_entropy, "lanes")


def test_no_samples(seed: int) -> None:
    stack, inputs, targets = problem("residual", 16, seed)
    engine = GradientEngine(stack, F.cross_entropy, "lanes")
    assert engine.gradients(inputs[:, :0], targets[:, :0]).isnan().all()
    for name, gradient in stack.named_gradients():
        is_end = name.startswith(("4.", "5.", "6."))
        assert is_end or not gradient.any(), name
    assert engine.outputs(inputs[:, :0]).shape == (AGENTS, 0, 5)


def test_lanes_without_a_sample_spoil_nothing(seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 17 * 15, 5)]
    stack = fs.AgentStack(nn.Sequential(*layers), AGENTS, init="independent", seed=seed)
    with torch.no_grad():
        dict(stack.named_parameters())["0.weight"][1, 2, 0, 0, 0] = float("inf")
    # zeros would meet the infinite weight
    inputs, targets = torch.rand(AGENTS, 5, *SHAPE) + 0.1, torch.randint(0, 5, (AGENTS, 5))
    GradientEngine(stack, F.cross_entropy, "lanes").gradients(inputs, targets)
    assert all(gradient.isfinite().all() for _, gradient in stack.named_gradients())


def test_an_autocast_of_the_callers_changes_nothing(seed: int) -> None:
    stack, inputs, targets = problem("lenet", 7, seed)
    engine = GradientEngine(stack, F.cross_entropy, "lanes")
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = engine.gradients(inputs, targets)
            found.append((losses, stack.g.nan_to_num(), engine.outputs(inputs)))
    for plain, cast in zip(*found, strict=True):
        assert torch.equal(plain, cast)


@pytest.mark.parametrize("inputs", [torch.zeros(2, 0, 2, 19, 17), torch.zeros(2)])
def test_the_choice_asks_nothing_of_inputs_that_are_odd(inputs: torch.Tensor) -> None:
    stack = fs.AgentStack(
        nn.Sequential(nn.Conv2d(2, 32, 3), *LENET[1:2], nn.Flatten(), nn.Linear(8160, 5)), 2
    )
    if inputs.dim() == 1:
        with pytest.warns(RuntimeWarning, match="takes its place"):
            GradientEngine(stack, F.cross_entropy, inputs=inputs)
    else:
        assert GradientEngine(stack, F.cross_entropy, inputs=inputs).engine == "lanes"


def test_what_makes_no_chain_is_told() -> None:
    twice = nn.ReLU()
    shared = nn.Sequential(
        nn.Conv2d(2, 2, 3), twice, nn.Conv2d(2, 2, 3), twice, nn.Flatten(), nn.Linear(2, 2)
    )
    assert "layers of its own, some are shared" in str(unknown_layer(shared))
    assert "it has no Conv2d" in str(unknown_layer(UNKNOWN["no convolution"]))
    changed = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    changed[0].forward = lambda x: x  # type: ignore[method-assign]
    assert "a forward of its own" in str(unknown_layer(changed))
