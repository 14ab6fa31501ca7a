"""AgentStack: every agent's model at once, as views of flat buffers."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import fastsaddle as fs
from fastsaddle import AgentStack
from fastsaddle.metrics import consensus_distance, consensus_mean

pytestmark = pytest.mark.usefixtures("one_thread")


def network(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), *extra, nn.Tanh(), nn.Flatten(), nn.Linear(12, 5))


@pytest.mark.parametrize("agents", [1, 2, 5])
def test_each_agent_is_a_module(agents: int, seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(nn.BatchNorm2d(3)), agents, init="independent", seed=seed)
    for b in stack.buffers.values():
        b.add_(torch.rand(agents, 1).to(b.dtype)) if b.dim() > 1 else None
    x = torch.randn(agents, 6, 2, 4, 4)
    for mode in (False, True):
        stack.train(mode)
        models = [stack.agent(i) for i in range(agents)]
        outputs = stack(x)
        assert outputs.shape == (agents, 6, 5) and stack.training is mode
        for model, batch, output in zip(models, x, outputs, strict=True):
            assert model.training is mode
            assert (model(batch) - output).abs().max() < 1e-5
    for i, model in enumerate(models):
        for name, b in model.named_buffers():
            assert (b - stack.buffers[name][i]).abs().max() < 1e-5


def test_modules_handed_out_are_copies(seed: int) -> None:
    torch.manual_seed(seed)
    module = network(nn.BatchNorm2d(3))
    stack = AgentStack(module, 3, init="independent", seed=seed)
    for p, q in zip(stack.agent(1).parameters(), stack.parameters(), strict=True):
        assert torch.equal(p, q[1])
    for name, b in stack.buffers.items():
        if b.is_floating_point():
            b.copy_(torch.randn_like(b))
            assert torch.equal(stack.agent(2).get_buffer(name), b[2])
    consensus = stack.consensus()
    for (name, q), p in zip(stack.named_parameters(), consensus.parameters(), strict=True):
        assert (p.double() - q.double().mean(0)).abs().max() < 1e-6
        assert dict(module.named_parameters())[name].shape == q.shape[1:]
    for name, b in stack.buffers.items():
        assert (consensus.get_buffer(name) - b.double().mean(0)).abs().max() < 1e-6
    assert (consensus_mean(stack.x) - stack.x.double().mean(0)).abs().max() < 1e-6
    spread = (stack.x.double() - stack.x.double().mean(0)).square().sum(1).mean().sqrt()
    assert consensus_distance(stack.x) == pytest.approx(spread.item(), rel=1e-5)
    before = stack.x.clone()
    with torch.no_grad():
        for p in (*module.parameters(), *consensus.parameters(), *stack.agent(0).parameters()):
            p.add_(1)
    assert torch.equal(stack.x, before)


def test_parameters_are_views_with_zero_padding(seed: int) -> None:
    torch.manual_seed(seed)
    module = network(nn.GroupNorm(3, 3))
    stack = AgentStack(module, 4)
    assert stack.layout.dim == sum(p.numel() for p in module.parameters())
    assert stack.x.shape == stack.g.shape == (4, stack.layout.stride)
    for p, q, offset in zip(
        stack.parameters(), module.parameters(), stack.layout.offsets, strict=True
    ):
        assert all(torch.equal(row, q) for row in p)
        assert p.data_ptr() == stack.x[0, offset:].data_ptr() and offset % 32 == 0
        assert p.grad is not None and p.grad.data_ptr() == stack.g[0, offset:].data_ptr()
    assert stack.layout.stride % 128 == 0


def test_initial_values(seed: int) -> None:
    torch.manual_seed(seed)
    module = network(nn.BatchNorm2d(3))
    generator = torch.get_rng_state()
    one, again, other = (
        AgentStack(module, 3, init="independent", seed=s) for s in (seed, seed, seed + 1)
    )
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(one.x, again.x) and not torch.equal(one.x, other.x)
    weights = one.x[:, :54]
    assert all(not torch.equal(weights[i], weights[j]) for i in range(3) for j in range(i))
    assert torch.equal(one.agent(2).get_parameter("1.weight"), torch.ones(3))
    few = AgentStack(module, 2, init="independent", seed=seed)
    assert torch.equal(few.x, one.x[:2])


def test_dropout_differs_between_agents(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5)), 3)
    x = torch.randn(1, 5, 4).expand(3, 5, 4)
    dropped = stack(x) == 0
    assert all(not torch.equal(dropped[i], dropped[j]) for i in range(3) for j in range(i))
    kept = stack.eval()(x)
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])


def test_moved_parameters_are_seen(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(network(), 3)
    for p in stack.parameters():
        p.data = torch.randn_like(p)
    for p, q in zip(stack.consensus().parameters(), stack.parameters(), strict=True):
        assert (p - q.mean(0)).abs().max() < 1e-6


def test_wrong_stacks_are_refused(seed: int) -> None:
    torch.manual_seed(seed)
    module = network()
    for arguments, message in (
        *(
            ({"agents": agents}, rf"agents must be a whole number >= 1, got {agents!r}$")
            for agents in (0, -1, 2.5, True, "3", None)
        ),
        ({"agents": 2, "init": "random"}, "init must be .* got 'random'"),
        ({"agents": 2, "module": nn.Tanh()}, "at least one parameter"),
        ({"agents": 2, "module": network().double()}, "must be float32, got .*float64"),
    ):
        with pytest.raises(ValueError, match=message):
            AgentStack(**{"module": module, **arguments})
    stack, other = AgentStack(module, 3), AgentStack(module, 3)
    with pytest.raises(ValueError, match=r"\[3, batch, \.\.\.\].*got \(2, 6, 2, 4, 4\)"):
        stack(torch.randn(2, 6, 2, 4, 4))
    x = stack.x
    with pytest.raises(ValueError, match=r"AgentStack of 3 agents needs a topology .* got None"):
        fs.DSGD(stack.parameters())
    with pytest.raises(ValueError, match="need an optimizer of their own"):
        fs.DSGD([*stack.parameters(), *other.parameters()], topology="ring")
    assert stack.x is x and not stack.rows.deserted


def test_parameters_turned_over_in_place_are_seen(seed: int) -> None:
    """The same memory with other strides: the gradient's view must turn too."""
    torch.manual_seed(seed)
    stack = AgentStack(nn.Linear(4, 4, bias=False), 3, init="independent", seed=seed)
    alone = fs.topology.from_matrix(torch.eye(3), allow_disconnected=True)
    optimizer = fs.DSGD(stack.parameters(), lr=1.0, topology=alone)
    weight, pull = next(stack.parameters()), torch.randn(3, 4, 4)
    weight.data = weight.data.transpose(1, 2)
    start = weight.detach().clone()
    optimizer.zero_grad()
    (weight * pull).sum().backward()
    optimizer.step()
    assert torch.equal(weight, start - pull)
    assert torch.equal(stack.x[:, :16], weight.flatten(1))


class Recurrent(nn.Module):
    """Statistics before the layer that cannot be mapped, dropout after it, and a tree of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.rows = nn.BatchNorm1d(3), nn.LSTM(2, 4, batch_first=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        out, state = self.rows(self.norm(x))
        return {"out": self.drop(out), "state": state}


def test_what_cannot_be_mapped_runs_agent_after_agent(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(Recurrent(), 3, init="independent", seed=seed)
    inputs = torch.randn(3, 5, 3, 2)
    models = [stack.agent(i) for i in range(3)]
    torch.manual_seed(seed)
    expected = [model(batch) for model, batch in zip(models, inputs, strict=True)]
    torch.manual_seed(seed)
    rule = r"^torch.vmap cannot map rows \(LSTM\): Batching rule not implemented for aten::lstm"
    with pytest.warns(RuntimeWarning, match=rule) as said:
        found = stack(inputs)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    for i, one in enumerate(expected):
        # the trial drew nothing and moved nothing
        assert torch.equal(found["out"][i], one["out"])
        assert all(map(torch.equal, (t[i] for t in found["state"]), one["state"]))
        for name, buffer in models[i].named_buffers():
            assert torch.equal(stack.buffers[name][i], buffer), name
        one["out"].sum().backward()
    found["out"].sum().backward()
    for name, p in stack.named_parameters():
        assert p.grad is not None
        for i, model in enumerate(models):
            assert torch.allclose(p.grad[i], model.get_parameter(name).grad, atol=1e-6), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(stack.eval()(inputs)["out"][1], stack.agent(1)(inputs[1])["out"])
        copied = copy.deepcopy(stack)
    assert torch.equal(copied(inputs)["out"], stack(inputs)["out"])


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
def test_a_weight_that_is_computed_stays_out_of_the_template(norm: Any, seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(nn.Sequential(norm(nn.Linear(4, 3)), nn.Tanh()), 2)
    inputs = torch.randn(2, 6, 4)
    with pytest.warns(RuntimeWarning, match=r"cannot map 0.*: Batching rule not implemented"):
        stack(inputs).sum().backward()
    assert stack.g.any(1).all()
    moved = {name: b.clone() for name, b in stack.buffers.items()}
    # the mode that could be mapped follows: modules can still be copied
    assert torch.allclose(stack.eval()(inputs)[1], stack.agent(1)(inputs[1]), atol=1e-6)
    assert all(torch.equal(moved[name], b) for name, b in stack.buffers.items())


def test_errors_of_the_module_itself_are_its_own() -> None:
    stack = AgentStack(nn.Linear(4, 3), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|size"):
            stack(torch.ones(2, 5, 3))


def test_other_outputs_than_tensors_are_refused() -> None:
    class Counts(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), len(x)

    stack = AgentStack(Counts(4, 3), 2)
    with (
        pytest.warns(RuntimeWarning, match="must only return Tensors"),
        pytest.raises(ValueError, match="must return tensors or trees of them, got <class 'int'>"),
    ):
        stack(torch.ones(2, 5, 4))
