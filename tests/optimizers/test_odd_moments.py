"""Parameters frozen, groups and states edited, models saved and closures calling back, all at odd moments."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


class Task:
    """A network with data of its own, and the closure of its loss."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = network()
        self.x, self.y = torch.randn(32, 6), torch.randint(3, (32,))

    def loss(self) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.x), self.y)

    def closure(self, optimizer: Any) -> Callable[[], torch.Tensor]:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return closure

    def step(self, optimizer: Any, times: int = 1) -> None:
        for _ in range(times):
            optimizer.step(self.closure(optimizer))


@pytest.mark.parametrize("call", ["perturb", "restore", "train", "eval", "first_step"])
@pytest.mark.parametrize("sam", [None, fs.MomentumSAM(), fs.LookSAM(2)])
def test_closures_do_not_pull_their_models_away(call: str, sam: Any, seed: int) -> None:
    task = Task(seed)
    optimizer = fs.QSADDLe(task.model.parameters(), lr=0.1, rho=0.5, sam=sam)
    task.step(optimizer)
    before = flat(task.model)

    def closure() -> torch.Tensor:
        loss = task.closure(optimizer)()
        getattr(optimizer, call)()
        return loss

    with pytest.raises(RuntimeError, match="while a step is in progress"):
        optimizer.step(closure)
    assert torch.equal(flat(task.model), before) and not optimizer.perturbed


def test_closures_do_not_synchronize(seed: int) -> None:
    p = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
    optimizer, before = fs.LocalSGD([p], lr=0.1, agents=3, period=5), p.detach().clone()

    def closure() -> torch.Tensor:
        optimizer.synchronize()
        return p.sum()

    with pytest.raises(RuntimeError, match="synchronized while a step is in progress"):
        optimizer.step(closure)
    assert torch.equal(p, before)


@pytest.mark.parametrize("how", ["frozen", "freed", "removed", "appended"])
def test_between_perturb_and_step(how: str, seed: int) -> None:
    task = Task(seed)
    model = task.model
    model[0].bias.requires_grad_(how != "freed")
    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2:].parameters())}]
    optimizer = fs.QSADDLe(groups, lr=0.0, rho=0.5, weight_decay=0.01)
    task.step(optimizer)
    before = flat(model)
    optimizer.zero_grad()
    task.loss().backward()
    optimizer.perturb(zero_grad=True)
    if how in ("frozen", "freed"):
        model[0].bias.requires_grad_(how == "freed")
    elif how == "removed":
        optimizer.param_groups.pop()
    else:
        optimizer.param_groups[0]["params"].append(nn.Parameter(torch.ones(3)))
    task.loss().backward()
    with pytest.raises(RuntimeError, match=r"between perturb\(\) and step\(\)"):
        optimizer.step()
    assert torch.equal(flat(model), before) and not optimizer.perturbed
    task.step(optimizer)


@pytest.mark.parametrize("how", ["removed", "appended"])
def test_groups_edited_by_hand(how: str, seed: int) -> None:
    task = Task(seed)
    model = task.model
    groups = [{"params": list(model[0].parameters())}, {"params": list(model[2:].parameters())}]
    optimizer = fs.DSGDm(groups, lr=0.1, momentum=0.9)
    task.step(optimizer, 2)
    before = flat(model)
    extra = nn.Parameter(torch.ones(3))
    if how == "removed":
        optimizer.param_groups.pop()
    else:
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [extra]})
        extra.grad = torch.ones(3)
    optimizer.step()
    size = sum(p.numel() for p in model[0].parameters())
    assert not torch.equal(flat(model)[:size], before[:size])
    assert torch.equal(flat(model)[size:], before[size:]) == (how == "removed")
    assert bool((extra < 1).all()) == (how == "appended")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: fs.DSADDLe(p, lr=0.1, sam=fs.LookSAM(5)),
        lambda p: fs.QGAdam(p, lr=0.01),
        lambda p: fs.DSADDLe(p, lr=0.1, sam=fs.ESAM(0.5)),
    ],
    ids=["LookSAM", "QGAdam", "ESAM"],
)
def test_steps_are_counted_while_a_layer_is_frozen(make: Any, seed: int) -> None:
    task = Task(seed)
    optimizer = make(task.model.parameters())
    task.step(optimizer, 3)
    task.model[0].requires_grad_(False)
    task.step(optimizer)
    other = copy.deepcopy(task)
    resumed = make(other.model.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    for t, o in ((task, optimizer), (other, resumed)):
        t.step(o, 4)
        t.model[0].requires_grad_(True)
        t.step(o)
        assert int(o.rounds) == 9
    assert torch.equal(flat(task.model), flat(other.model))


@pytest.mark.parametrize("order", [1, -1])
def test_a_freed_parameter_does_not_bring_back_its_groups_rate(order: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values, targets = ([torch.randn(4, n, generator=draw) for n in (3, 2)] for _ in range(2))

    def run(freezes: bool) -> torch.Tensor:
        a, b = (nn.Parameter(v.clone()) for v in values)
        optimizer = fs.D2([a, b][::order], lr=0.1, topology="ring", consensus_step=0.5)
        for t in range(12):
            if freezes and t in (3, 8):
                b.requires_grad_(t == 8)
            if t == 5:
                optimizer.param_groups[0]["lr"] = 0.05
            optimizer.zero_grad()
            sum(((p - c) ** 2).sum() for p, c in zip((a, b), targets, strict=True)).backward()
            optimizer.step()
        return a.detach()

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize("how", ["frozen", "reversed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_under_train_belong_to_their_parameters(
    how: str, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(3)]).to(dtype)
    optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.5, sam=fs.MomentumSAM())
    optimizer.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 6, dtype=dtype)).square().mean().backward()
        optimizer.step()
    if how == "frozen":
        model[0].weight.requires_grad_(False)
    else:
        optimizer.param_groups[0]["params"].reverse()
    copied, _ = copy.deepcopy((model, optimizer))
    optimizer.eval()
    assert torch.equal(flat(model), flat(copied))


@pytest.mark.parametrize("how", ["cleared", "assigned"])
def test_momentum_that_is_reset_is_reset(how: str, seed: int) -> None:
    task = Task(seed)
    other = copy.deepcopy(task)
    optimizer = fs.DSGDm(task.model.parameters(), lr=0.1, momentum=0.9)
    plain = torch.optim.SGD(other.model.parameters(), lr=0.1, momentum=0.9)
    for t, o in ((task, optimizer), (other, plain)):
        t.step(o, 3)
        if how == "cleared":
            o.state.clear()
        else:
            for p in t.model.parameters():
                o.state[p]["momentum_buffer"] = torch.zeros_like(p)
    saved = optimizer.state_dict()["state"]
    assert all(not s["momentum_buffer"].any() for s in saved.values()) and len(saved) == 6
    for t, o in ((task, optimizer), (other, plain)):
        t.step(o, 3)
    assert (flat(task.model) - flat(other.model)).abs().max() < 1e-6


def test_inference_mode_leaves_no_trace(seed: int) -> None:
    task = Task(seed)
    optimizer = fs.QSADDLe(task.model.parameters(), lr=0.1, sam=fs.MomentumSAM())
    task.step(optimizer)
    task.model[0].requires_grad_(False)
    with torch.inference_mode():
        optimizer.state_dict()
    task.step(optimizer)
    with torch.inference_mode():
        optimizer.train()
        optimizer.eval()
    optimizer.param_groups[0]["rho"] = 0.2
    task.step(optimizer)


@pytest.mark.parametrize("sam", [fs.LookSAM(2), fs.MomentumSAM(), fs.ESAM(0.5)])
def test_nothing_to_perturb(sam: Any, seed: int) -> None:
    task = Task(seed)
    task.model.requires_grad_(False)
    optimizer = fs.QSADDLe(task.model.parameters(), lr=0.1, sam=sam)
    if isinstance(sam, fs.MomentumSAM):
        optimizer.train()
        optimizer.eval()
    else:
        optimizer.perturb()
        optimizer.step()
    before = flat(task.model)
    task.model.requires_grad_(True)
    task.step(optimizer, 3)
    assert not torch.equal(flat(task.model), before)


def test_compression_can_be_switched_off_in_the_middle(seed: int) -> None:
    def made(compressor: Any) -> Any:
        p = nn.Parameter(torch.randn(4, 40, generator=torch.Generator().manual_seed(seed)))
        return fs.QGM([p], lr=0.1, topology="ring", compressor=compressor)

    compressed, whole = made(fs.compressors.StochasticQuantizer(8)), made(None)
    for _ in range(3):
        p = compressed.param_groups[0]["params"][0]
        p.grad = torch.randn(4, 40)
        compressed.step()
    file = io.BytesIO()
    torch.save(compressed.state_dict(), file)
    file.seek(0)
    whole.load_state_dict(torch.load(file, weights_only=True))
    q = whole.param_groups[0]["params"][0]
    assert torch.equal(whole.state[q]["quasi_global"], compressed.state[p]["quasi_global"])
    q.grad = torch.randn(4, 40)
    whole.step()
