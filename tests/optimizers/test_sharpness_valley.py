"""The mean valley against closed forms along lines, and against its definition on a network."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle import AgentStack
from fastsaddle.sharpness import MeanValley, mean_valley
from tests.optimizers.sharpness_cases import mean_output

pytestmark = pytest.mark.usefixtures("one_thread")


class Landscape(nn.Module):
    """A function of the parameters, whatever the inputs: one output a sample. They lie in two tensors."""

    def __init__(self, function: Callable[[Tensor], Tensor], places: Tensor) -> None:
        super().__init__()
        self.function = function
        self.head = nn.Parameter(places[0, :1].clone())
        self.tail = nn.Parameter(places[0, 1:, None].clone())

    def forward(self, inputs: Tensor) -> Tensor:
        x = torch.cat([self.head, self.tail.flatten()]).double()
        return self.function(x).expand(len(inputs))


def valley(
    function: Callable[[Tensor], Tensor], places: list[list[float]] | Tensor, **options: Any
) -> MeanValley:
    """Of agents at `places` `[agents, n]`."""
    at = torch.as_tensor(places, dtype=torch.float32)
    stack = AgentStack(Landscape(function, at), len(at))
    with torch.no_grad():
        head, tail = stack.parameters()
        head.copy_(at[:, :1])
        tail.copy_(at[:, 1:, None])
    return mean_valley(stack, mean_output, torch.randn(3, 1), torch.zeros(3), **options)


@pytest.mark.parametrize("kappa", [1.3, 2.0, 50.0])
@pytest.mark.parametrize("agents", [2, 5])
def test_widths_of_a_quadratic(kappa: float, agents: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    root = random.normal(size=(4, 4))
    A, b = root @ root.T + np.eye(4), random.normal(size=4)
    places = random.normal(size=(agents, 4)).astype(np.float32)

    def loss(x: Tensor) -> Tensor:
        return x @ torch.from_numpy(A) @ x / 2 + torch.from_numpy(b) @ x + 5

    found = valley(loss, torch.from_numpy(places), kappa=kappa, tolerance=1e-7)
    mean = places.astype(float).mean(0)
    lowest = mean @ A @ mean / 2 + b @ mean + 5
    away = places - mean
    for width, u in zip(found.widths.tolist(), away, strict=True):
        u = u / np.linalg.norm(u)
        roots = np.roots([u @ A @ u / 2, (A @ mean + b) @ u, (1 - kappa) * lowest])
        assert width == pytest.approx(min(r for r in roots if r > 0), rel=1e-5)
    assert found.widths.dtype == torch.float64
    assert found.mean == pytest.approx(found.widths.mean().item())
    assert found.negative == -found.mean and found.reciprocal == 1 / found.mean


@pytest.mark.parametrize("width", [1e-4, 0.0499, 0.0501, 0.7, 0.8, 12.8, 999.0])
@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-6, 1e-12])
def test_any_width_between_zero_and_the_farthest(width: float, tolerance: float) -> None:
    found = valley(lambda x: 1 + x.abs().sum() / width, [[-2, 0], [2, 0]], tolerance=tolerance)
    # parameters are float32
    assert found.widths.tolist() == pytest.approx([width, width], rel=max(tolerance, 2e-6))


def test_the_loss_never_reaches_kappa_times_on_one_side() -> None:
    found = valley(lambda x: 1 + x[0].relu() ** 2, [[-3, 0], [3, 0]], kappa=5, tolerance=1e-6)
    assert found.widths[0] == math.inf and found.widths[1].item() == pytest.approx(2, rel=1e-5)
    assert found.mean == math.inf and found.negative == -math.inf and found.reciprocal == 0
    bounded = valley(lambda x: 1 + x.square().sum().tanh() / 2, [[-3, 1], [3, 2], [0, 1]])
    assert bounded.widths.tolist() == [math.inf] * 3


@pytest.mark.parametrize("width", [2.9, 3.1])
def test_no_farther_than_farthest(width: float) -> None:
    # the last place before 3 is 1.6; twice that would find 3.1
    found = valley(lambda x: 1 + x.norm() / width, [[-1, 0], [1, 0]], farthest=3, tolerance=1e-6)
    expected = [width if width < 3 else math.inf] * 2
    assert found.widths.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_a_number_ends_the_valley() -> None:
    def loss(x: Tensor) -> Tensor:
        return 1 + 0 * (1.7 - x.norm()).sqrt()

    found = valley(loss, [[-1, 0], [1, 0]], tolerance=1e-5)
    assert found.widths.tolist() == pytest.approx([1.7, 1.7], rel=1e-4)


def test_the_first_crossing_counts() -> None:
    # above twice between 0.9 and 1.7 as well as from 6 on
    def loss(x: Tensor) -> Tensor:
        far = x.norm()
        bump = 1.5 * ((far > 0.9) & (far < 1.7))
        return 1 + bump + 2 * (far > 6)

    found = valley(loss, [[-1, 0], [1, 0]], tolerance=1e-5)
    assert found.widths.tolist() == pytest.approx([0.9, 0.9], rel=1e-4)


@pytest.mark.parametrize("places", [[[1, 2]], [[1, 2], [1, 2], [1, 2]]])
def test_agents_that_equal_their_mean_have_no_direction(places: list[list[float]]) -> None:
    found = valley(lambda x: 1 + x.square().sum(), places)
    assert found.widths.isnan().all() and len(found.widths) == len(places)
    assert math.isnan(found.mean) and math.isnan(found.reciprocal)


def test_one_agent_at_the_mean_of_others() -> None:
    found = valley(lambda x: 1 + x.square().sum(), [[-2, 0], [0, 0], [2, 0]], tolerance=1e-6)
    assert found.widths[1].isnan() and math.isnan(found.mean)
    assert found.widths[::2].tolist() == pytest.approx([1, 1], rel=1e-5)


class Normalized(nn.Module):
    """With statistics and a frozen layer; convolutions run agent after agent."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 4, 6) if convolution else nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 3)
        self.last.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs[:, None] if isinstance(self.first, nn.Conv1d) else inputs
        return self.last(torch.tanh(self.norm(self.first(inputs).flatten(1))))


@pytest.mark.parametrize("convolution", [False, True])
def test_widths_of_a_network_satisfy_their_definition(convolution: bool, seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(Normalized(convolution), 4)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.3 * torch.randn_like(p))
    inputs, targets = torch.randn(23, 6), torch.randint(3, (23,))
    center = stack.consensus()
    center.get_buffer("norm.running_mean").normal_()
    center.get_buffer("norm.running_var").uniform_(0.5, 2)
    center.train()
    before = {name: value.clone() for name, value in center.state_dict().items()}
    found = mean_valley(
        stack, F.cross_entropy, inputs, targets, 1.5, tolerance=1e-5, center=center, batch_size=9
    )
    other = mean_valley(stack, F.cross_entropy, inputs, targets, 1.5, tolerance=1e-5)
    assert center.training and all(
        torch.equal(value, before[name]) for name, value in center.state_dict().items()
    )
    middle = {n: p.detach().double() for n, p in center.named_parameters()}
    trained = [n for n, p in center.named_parameters() if p.requires_grad]
    oracle = center.double().eval()

    def loss(b: float, u: dict[str, Tensor]) -> float:
        at = {n: middle[n] + b * u[n] for n in trained}
        outputs = torch.func.functional_call(oracle, at, (inputs.double(),))
        return F.cross_entropy(outputs, targets).item()

    lowest = loss(0, middle)
    for agent, width in enumerate(found.widths.tolist()):
        own = {n: p.detach().double() for n, p in stack.agent(agent).named_parameters()}
        u = {n: own[n] - middle[n] for n in trained}
        length = math.sqrt(sum(float(d.square().sum()) for d in u.values()))
        u = {n: d / length for n, d in u.items()}
        places = [0.05 * 2**k for k in range(15)]
        inside = [b for b in places if b < min(width, 1000.0)]
        assert all(loss(b, u) < 1.5 * lowest * (1 + 1e-4) for b in inside)
        if width < math.inf:
            assert loss(0.9999 * width, u) < 1.5 * lowest * (1 + 1e-4)
            assert loss(1.0001 * width, u) > 1.5 * lowest * (1 - 1e-4)
    assert other.widths.tolist() != found.widths.tolist()


def test_frozen_parameters_are_the_centers() -> None:
    stack = AgentStack(nn.Linear(2, 1), 2)
    weight, bias = stack.parameters()
    with torch.no_grad():
        weight.copy_(torch.tensor([[[3.0, 0.0]], [[-1.0, 0.0]]]))
        bias.copy_(torch.tensor([[5.0], [7.0]]))
    bias.requires_grad_(False)
    # the output is 1 + 6 at the mean, twice that 7 farther along the first weight
    found = mean_valley(stack, mean_output, torch.eye(2)[:1], torch.zeros(1), tolerance=1e-6)
    assert found.widths[0].item() == pytest.approx(7, rel=1e-5)
    assert found.widths[1] == math.inf


def test_wrong_numbers() -> None:
    def rises(x: Tensor) -> Tensor:
        return 1 + x.norm()

    places = [[0.0, 1.0], [2.0, 3.0]]
    for kappa in (1.0, 0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="kappa must be finite and > 1, got"):
            valley(rises, places, kappa=kappa)
    for distances in ((0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="finite and 0 < nearest <= farthest, got"):
            valley(rises, places, nearest=distances[0], farthest=distances[1])
    for tolerance in (0.0, -1.0, 1e-13, math.nan):
        with pytest.raises(ValueError, match="tolerance must be >= 1e-12, got"):
            valley(rises, places, tolerance=tolerance)
    for value in (0.0, -2.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="loss at the agents' mean must be finite and > 0"):
            valley(lambda x, value=value: 0 * x.sum() + value, places)


def test_the_center_is_one_of_the_agents_kind(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(nn.Linear(3, 2), 2)
    data = F.cross_entropy, torch.randn(4, 3), torch.randint(2, (4,))
    with pytest.raises(ValueError, match=r"have the agents' parameters .*\(2, 3\).*got .*\(2, 4\)"):
        mean_valley(stack, *data, center=nn.Linear(4, 2))
