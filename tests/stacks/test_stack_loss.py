"""`stack.loss`: the value is the mean over agents, the gradient each agent's own."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def weighted() -> Any:
    return nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]), label_smoothing=0.1)


CASES: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "classes": (F.cross_entropy, (6, 4), lambda: torch.randint(3, (3, 6))),
    "weighted classes": (weighted(), (6, 4), lambda: torch.randint(3, (3, 6))),
    "tokens": (token_loss, (6, 5, 4), lambda: torch.randint(3, (3, 6, 5))),
    "regression": (F.mse_loss, (6, 4), lambda: torch.randn(3, 6, 3)),
    "huber": (nn.HuberLoss(), (6, 4), lambda: torch.randn(3, 6, 3)),
    "none": (lambda outputs: outputs.square().mean(), (6, 4), None),
    "tree": (
        lambda outputs, more: F.cross_entropy(outputs, more["y"]) * more["w"].mean(),
        (6, 4),
        lambda: {"y": torch.randint(3, (3, 6)), "w": torch.rand(3, 6)},
    ),
}


def part(tree: Any, agent: int) -> Any:
    return {k: v[agent] for k, v in tree.items()} if isinstance(tree, dict) else tree[agent]


@pytest.mark.filterwarnings("ignore:torch.vmap cannot map the criterion:RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_each_agent_gets_the_gradient_of_its_own_loss(name: str, seed: int) -> None:
    criterion, shape, targets = CASES[name]
    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.Linear(4, 3), 3, init="independent", seed=seed)
    inputs = torch.randn(3, *shape)
    of = () if targets is None else (targets(),)
    loss = stack.loss(criterion, stack(inputs), *of)
    loss.backward()
    expected = []
    for i in range(3):
        model = stack.agent(i)
        own = criterion(model(inputs[i]), *(part(t, i) for t in of))
        own.backward()
        expected.append(own)
        for key, p in stack.named_parameters():
            assert torch.allclose(p.grad[i], model.get_parameter(key).grad, atol=1e-6)
    assert loss.shape == () and torch.allclose(loss, torch.stack(expected).mean())
    # scaled as a loss is that a GradScaler, or accumulation, multiplies
    taken = stack.g.clone()
    (stack.loss(criterion, stack(inputs), *of) / 4).backward()
    assert torch.allclose(stack.g, 1.25 * taken, atol=1e-6)


def test_training_is_that_of_the_sum_of_mean_losses(seed: int) -> None:
    """As the factor before a mean over all agents' samples gave it."""
    torch.manual_seed(seed)
    module, inputs = nn.Linear(5, 3), torch.randn(4, 8, 5)
    targets = torch.randint(3, (4, 8))
    found = []
    for own in (True, False):
        stack = fs.AgentStack(module, 4)
        optimizer = fs.QGM(stack.parameters(), lr=0.1, topology="ring")
        for _ in range(20):
            optimizer.zero_grad()
            outputs = stack(inputs)
            if own:
                loss = stack.loss(F.cross_entropy, outputs, targets)
                loss.backward()
            else:
                loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
                (4 * loss).backward()
            optimizer.step()
        found.append((loss.detach(), stack.x.clone()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


def test_a_criterion_that_cannot_be_mapped_is_called_agent_after_agent(seed: int) -> None:
    def choosing(outputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, targets)
        return loss if loss > 1 else loss.square()

    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.Linear(4, 3), 3, init="independent", seed=seed)
    inputs, targets = torch.randn(3, 6, 4), torch.randint(3, (3, 6))
    with pytest.warns(
        RuntimeWarning, match=r"^torch.vmap cannot map the criterion: .*after"
    ) as said:
        stack.loss(choosing, stack(inputs), targets).backward()
    assert len(said) == 1 and said[0].filename == __file__
    for i in range(3):
        model = stack.agent(i)
        choosing(model(inputs[i]), targets[i]).backward()
        for name, p in stack.named_parameters():
            assert torch.allclose(p.grad[i], model.get_parameter(name).grad, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack.loss(choosing, stack(inputs), targets)


def test_what_is_no_loss_of_each_agent_is_refused() -> None:
    stack = fs.AgentStack(nn.Linear(4, 3), 3)
    outputs, targets = stack(torch.randn(3, 6, 4)), torch.randint(3, (3, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=r"must give a scalar for each agent, got shape \(6,\)"
        ):
            stack.loss(nn.CrossEntropyLoss(reduction="none"), outputs, targets)
        with pytest.raises(ValueError, match=r"\[3, batch, \.\.\.\].*got \(6,\) for argument 1"):
            stack.loss(F.cross_entropy, outputs, targets[0])
        with pytest.raises(
            ValueError, match="must give a scalar for each agent, got <class 'tuple'"
        ):
            stack.loss(lambda a, b: (a.mean(), b), outputs, targets)
        # an error of the criterion is its own
        with pytest.raises(KeyError, match="own"):
            stack.loss(lambda a, b: {}["own"], outputs, targets)
