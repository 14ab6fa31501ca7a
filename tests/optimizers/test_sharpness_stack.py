"""Measures of all agents of a stack against each agent's own module, measured alone."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle import AgentStack, sharpness
from tests.optimizers.sharpness_cases import network, state

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:the top eigenvalue:RuntimeWarning"),
]


class Perceptron(nn.Module):
    """Normalized, with dropout, tied layers, a frozen bias and a buffer that passes write to."""

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.norm = nn.BatchNorm1d(width)
        self.second, self.third = nn.Linear(width, width), nn.Linear(width, width)
        self.third.weight = self.second.weight
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Linear(width, classes)
        self.last.bias.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        x = self.norm(torch.tanh(self.first(inputs)))
        x = self.dropout(torch.tanh(self.third(torch.tanh(self.second(x)))))
        return self.last(x)


class Recurrent(nn.Module):
    """A GRU, which cannot be mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.gru(inputs)[0][:, -1])


def apart(module: nn.Module, agents: int) -> AgentStack:
    """Agents that differ in all parameters and statistics, frozen ones included."""
    stack = AgentStack(module, agents)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for name, b in stack.buffers.items():
            if b.is_floating_point():
                b.uniform_(0.5, 2) if name.endswith("var") else b.normal_()
    return stack


def perceptrons(seed: int, agents: int = 5) -> tuple[AgentStack, Tensor, Tensor]:
    torch.manual_seed(seed)
    stack = apart(Perceptron(6, 7, 3), agents)
    return stack, torch.randn(13, 6), torch.randint(3, (13,))


def convolutions(seed: int) -> tuple[AgentStack, Tensor, Tensor]:
    model, inputs, targets = network(seed, torch.float32)
    return apart(model, 3), inputs, targets


def recurrent(seed: int) -> tuple[AgentStack, Tensor, Tensor]:
    torch.manual_seed(seed)
    return apart(Recurrent(), 3), torch.randn(9, 5, 3), torch.randint(3, (9,))


def alone(seed: int) -> tuple[AgentStack, Tensor, Tensor]:
    return perceptrons(seed, agents=1)


CASES = (perceptrons, convolutions, recurrent, alone)
MEASURES: dict[str, Callable[..., Tensor | float]] = {
    "loss": sharpness.mean_loss,
    "sam": lambda *data, **options: sharpness.sam_sharpness(*data, rho=0.4, **options),
    # a number of iterations that rounding does not decide
    "top": lambda *data, **o: sharpness.top_eigenvalue(*data, iterations=6, tolerance=1e-9, **o),
    "trace": lambda *data, **o: sharpness.trace(*data, probes=5, **o).estimate,
    "error": lambda *data, **o: sharpness.trace(*data, probes=5, **o).standard_error,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MEASURES)
def test_a_stack_is_its_modules(name: str, case: Callable, seed: int) -> None:
    stack, inputs, targets = case(seed)
    measure, data = MEASURES[name], (F.cross_entropy, inputs, targets)
    found = measure(stack, *data, batch_size=4)
    expected = [measure(stack.agent(i), *data, batch_size=4) for i in range(stack.agents)]
    assert all(isinstance(value, float) for value in expected)
    assert isinstance(found, Tensor) and found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=2e-3, abs=2e-5)
    assert stack.agents == 1 or len(set(found.tolist())) == stack.agents


@pytest.mark.parametrize("case", CASES)
def test_the_surface_of_a_stack_is_that_of_its_modules(case: Callable, seed: int) -> None:
    stack, inputs, targets = case(seed)
    data = F.cross_entropy, inputs, targets, 0.5, 3, seed
    found = sharpness.loss_surface(stack, *data)
    expected = [sharpness.loss_surface(stack.agent(i), *data) for i in range(stack.agents)]
    assert found.shape == (stack.agents, 3, 3) and found.dtype == torch.float64
    assert torch.allclose(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_more_agents_than_are_mapped_at_once(seed: int) -> None:
    stack, inputs, targets = perceptrons(seed, agents=131)
    found = sharpness.sam_sharpness(stack, F.cross_entropy, inputs, targets)
    assert found.shape == (131,)
    for agent in (0, 63, 64, 130):
        own = sharpness.sam_sharpness(stack.agent(agent), F.cross_entropy, inputs, targets)
        assert found[agent].item() == pytest.approx(own, rel=1e-3, abs=1e-5)


def test_each_agent_stops_its_power_iteration_by_itself(seed: int) -> None:
    stack, inputs, targets = perceptrons(seed)
    data = F.cross_entropy, inputs, targets
    found = sharpness.top_eigenvalue(stack, *data, iterations=5000, tolerance=0.01)
    for agent, value in enumerate(found.tolist()):
        own = sharpness.top_eigenvalue(stack.agent(agent), *data, iterations=5000, tolerance=0.01)
        assert value == pytest.approx(own, rel=0.02)


def test_a_zero_gradient_of_one_agent_alone(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(nn.Linear(3, 1, bias=False), 3)
    with torch.no_grad():
        next(stack.parameters())[1] = 0
    inputs = torch.randn(5, 3)

    def squared(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().mean()

    found = sharpness.sam_sharpness(stack, squared, inputs, inputs, rho=0.5)
    assert found[1] == 0 and found[0] > 0 and found[2] > 0


@pytest.mark.filterwarnings("default:the top eigenvalue:RuntimeWarning")
def test_the_warning_names_an_agent(seed: int) -> None:
    stack, inputs, targets = perceptrons(seed)
    said = r"top eigenvalue of agent \d is within .* after 1 iterations"
    with pytest.warns(RuntimeWarning, match=said) as caught:
        sharpness.top_eigenvalue(
            stack, F.cross_entropy, inputs, targets, iterations=1, tolerance=1e-9
        )
    assert len(caught) == 1 and caught[0].filename == __file__


def bits(stack: AgentStack) -> dict[str, object]:
    tensors = {"x": stack.x, "g": stack.g, **stack.buffers}
    pointers = {name: (p.data_ptr(), p.grad) for name, p in stack.named_parameters()}
    own = {name: tensor.clone().numpy().tobytes() for name, tensor in tensors.items()}
    return {"own": own, "pointers": pointers, "template": state(stack.template)}


@pytest.mark.parametrize("case", CASES)
def test_a_stack_stays_as_it_was(case: Callable, seed: int) -> None:
    stack, inputs, targets = case(seed)
    stack.g.normal_()
    stack.train()
    first = next(m for m in stack.template.modules() if m is not stack.template)
    first.eval()
    before, random = bits(stack), torch.get_rng_state()
    for measure in (*MEASURES.values(), sharpness.mean_valley):
        measure(stack, F.cross_entropy, inputs, targets, batch_size=7)
    sharpness.loss_surface(stack, F.cross_entropy, inputs, targets, points=3)
    assert bits(stack) == before and torch.equal(torch.get_rng_state(), random)
    for measure in (*MEASURES.values(), sharpness.mean_valley, sharpness.loss_surface):
        calls = itertools.count()

        def fail(outputs: Tensor, targets: Tensor, calls: itertools.count = calls) -> Tensor:
            if next(calls):
                raise ArithmeticError("in the middle")
            return F.cross_entropy(outputs, targets)

        with pytest.raises(ArithmeticError, match="in the middle"):
            measure(stack, fail, inputs, targets, batch_size=7)
        assert bits(stack) == before


def test_wrong_arguments(seed: int) -> None:
    stack, inputs, targets = perceptrons(seed)
    for measure in (*MEASURES.values(), sharpness.mean_valley, sharpness.loss_surface):
        with pytest.raises(ValueError, match="batch_size must be >= 1, got -3"):
            measure(stack, F.cross_entropy, inputs, targets, batch_size=-3)
        with pytest.raises(ValueError, match="equally many and at least one, got 13 and 12"):
            measure(stack, F.cross_entropy, inputs, targets[1:])
        with pytest.raises(ValueError, match="loss must give a scalar, got shape \\(13, 3\\)"):
            measure(stack, lambda outputs, targets: outputs, inputs, targets)
        for p in stack.parameters():
            p.requires_grad_(False)
        with pytest.raises(ValueError, match="no parameters that require gradients"):
            measure(stack, F.cross_entropy, inputs, targets)
        for p in stack.parameters():
            p.requires_grad_(True)


def test_a_loss_that_is_not_finite_gives_nan_for_its_agent(seed: int) -> None:
    stack, inputs, targets = perceptrons(seed)
    with torch.no_grad():
        dict(stack.named_parameters())["first.weight"][3] = math.nan
    others = torch.arange(5) != 3
    for name in ("loss", "sam", "top", "trace"):
        found = MEASURES[name](stack, F.cross_entropy, inputs, targets)
        assert isinstance(found, Tensor)
        assert found[3].isnan() and found[others].isfinite().all()
