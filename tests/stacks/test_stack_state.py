"""state_dict, load_state_dict, to, and what a stack says of itself."""

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Tied weights, statistics, and a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(x)))) * self.scale


def trained(seed: int, agents: int = 3) -> fs.AgentStack:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Net(), agents, init="independent", seed=seed)
    stack(torch.randn(agents, 6, 4))
    return stack


def test_a_state_dict_has_the_modules_names(seed: int, tmp_path: Path) -> None:
    stack = trained(seed)
    state = stack.state_dict()
    assert list(state) == list(Net().state_dict())
    for i in range(3):
        for name, value in stack.agent(i).state_dict().items():
            assert torch.equal(state[name][i], value), name
    kept = {name: value.clone() for name, value in state.items()}
    # it is a copy, and no larger on disk than its numbers
    with torch.no_grad():
        for t in (*stack.parameters(), *stack.buffers.values()):
            t.add_(1)
    assert all(torch.equal(kept[name], value) for name, value in state.items())
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(torch.equal(kept[name], value) for name, value in loaded.items())
    big = fs.AgentStack(nn.Sequential(*(nn.Linear(32, 32) for _ in range(8))), 4)
    file = io.BytesIO()
    torch.save(big.state_dict(), file)
    assert len(file.getvalue()) < 1.2 * 4 * big.x.numel()


def test_a_stacks_state_is_loaded_where_an_optimizer_sees_it(seed: int) -> None:
    stack, other = trained(seed), trained(seed + 1)
    optimizer = fs.QGM(other.parameters(), lr=0.1, topology="ring")
    at = other.x.data_ptr()
    result = other.load_state_dict(stack.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    assert other.x.data_ptr() == at and torch.equal(other.x, stack.x)
    for name, b in stack.buffers.items():
        assert name == "scale" or torch.equal(other.buffers[name], b), name
    twin = fs.QGM(stack.parameters(), lr=0.1, topology="ring")
    x = torch.randn(3, 6, 4)
    for of, its in ((stack, twin), (other, optimizer)):
        its.zero_grad()
        of.loss(F.mse_loss, of(x), x).backward()
        its.step()
    assert torch.equal(stack.x, other.x)


def test_a_plain_modules_state_goes_to_all_agents(seed: int) -> None:
    stack = trained(seed)
    module = Net()
    module(torch.randn(9, 4))
    stack.load_state_dict(module.state_dict())
    for i in range(3):
        for name, value in stack.agent(i).state_dict().items():
            assert torch.equal(value, module.state_dict()[name]), name
    # and an agent's into another stack
    other = trained(seed + 1, agents=2)
    other.load_state_dict(stack.agent(1).state_dict())
    assert torch.equal(other.x[1], stack.x[1])


def test_a_state_that_does_not_fit_changes_nothing(seed: int) -> None:
    stack = trained(seed)
    state = stack.state_dict()
    before = stack.x.clone()
    for change, rule in (
        (
            {"norm.weight": torch.ones(2, 4)},
            r"norm.weight must be \(3, 4\), or \(4,\) for all .* got \(2, 4\)",
        ),
        ({"norm.bias": 3.0}, r"norm.bias must be .*got <class 'float'>"),
        ({"third": torch.ones(3)}, r"missing are \[\], unexpected \['third'\]"),
    ):
        with pytest.raises(ValueError, match=rule):
            stack.load_state_dict({n: v + 1 for n, v in state.items()} | change)
        assert torch.equal(stack.x, before)
    part = {n: v + 1 for n, v in state.items() if n.startswith("norm")} | {"third": torch.ones(1)}
    with pytest.raises(ValueError, match=r"missing are \['first.weight'.*unexpected \['third'\]"):
        stack.load_state_dict(part)
    result = stack.load_state_dict(part, strict=False)
    assert result.unexpected_keys == ["third"] and "first.weight" in result.missing_keys
    assert torch.equal(stack.state_dict()["norm.weight"], state["norm.weight"] + 1)
    assert torch.equal(stack.state_dict()["first.weight"], state["first.weight"])


def test_other_dtypes_are_refused(seed: int) -> None:
    stack = trained(seed)
    assert stack.to(torch.float32) is stack and stack.to("cpu", torch.float32) is stack
    for dtype in (torch.float64, torch.bfloat16):
        with pytest.raises(ValueError, match=f"moves between devices alone, got {dtype}"):
            stack.to(dtype)
        with pytest.raises(ValueError, match=f"moves between devices alone, got {dtype}"):
            stack.to(device="cpu", dtype=dtype)


def loss_with_gradients(stack: fs.AgentStack, x: Tensor) -> Tensor:
    stack.zero_grad()
    loss = stack.loss(F.mse_loss, stack(x), x)
    loss.backward()
    return loss


@pytest.mark.gpu
def test_an_optimizer_follows_to_another_device(seed: int) -> None:
    found = []
    batches = torch.randn(6, 3, 6, 4, generator=torch.Generator().manual_seed(seed))
    for moves in (False, True):
        stack = trained(seed)
        optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, topology="ring")
        for step, x in enumerate(batches):
            if moves and step == 3:
                assert stack.to("cuda").device.type == "cuda"
            x = x.to(stack.device)

            optimizer.step(partial(loss_with_gradients, stack, x))
        if moves:
            assert all(b.is_cuda for b in stack.buffers.values())
            assert all(p.is_cuda and p.grad.is_cuda for p in stack.parameters())
            assert next(stack.agent(0).parameters()).is_cuda
        found.append(stack.x.cpu())
    assert torch.allclose(*found, atol=1e-4)


def test_what_a_stack_says_of_itself(seed: int) -> None:
    stack = trained(seed)
    said = repr(stack)
    assert said.startswith("AgentStack(\n  agents=3, parameters=32, device=cpu\n  (module): Net(\n")
    assert "    (norm): BatchNorm1d(4" in said
    assert [name for name, _ in stack.named_buffers()] == [n for n, _ in Net().named_buffers()]
    stack(torch.randn(3, 6, 4)).sum().backward()
    assert stack.g.any()
    stack.zero_grad()
    assert not stack.g.any() and all(p.grad is not None for p in stack.parameters())
