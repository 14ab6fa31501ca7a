"""bfloat16 parameters: steps work on float32 masters, and parameters are these, rounded to nearest."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.test_every_optimizer import METHODS, NEEDS, each

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = ((5, 7), (33,), (), (3, 2))
STEPS = 6
# which parameters are bfloat16
WHICH = {"all": (0, 1, 2, 3), "some": (0, 3)}


def start(seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *shape, generator=draw).bfloat16() for shape in SHAPES]


def made(name: str, values: list[torch.Tensor], rounded: Any, **options: Any) -> Any:
    """An optimizer on `values`, in two groups; those numbered in `rounded` are bfloat16."""
    p = [
        nn.Parameter(v.clone() if k in rounded else v.float().clone()) for k, v in enumerate(values)
    ]
    groups = [{"params": p[:2]}, {"params": p[2:], "lr": 0.02}]
    own = NEEDS.get(name, {"topology": "ring"})
    return METHODS[name](groups, **{"lr": 0.05, "weight_decay": 0.01, **own, **options})


def parameters(optimizer: Any) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def master(optimizer: Any, p: nn.Parameter) -> torch.Tensor:
    held: torch.Tensor = optimizer.state[p].get("master", p)
    return held.detach()


def loss_of(values: list[torch.Tensor], noise: list[torch.Tensor]) -> torch.Tensor:
    """Every agent pulled elsewhere, in the precision of the values."""
    pulls = [
        ((v - n.to(v.dtype)).reshape(4, -1).float()).cosh().log().sum()
        for v, n in zip(values, noise, strict=True)
    ]
    return torch.stack(pulls).sum()


def noises(seed: int) -> list[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed + 1)
    return [[torch.randn(4, *shape, generator=draw) for shape in SHAPES] for _ in range(STEPS)]


def closure_of(optimizer: Any, noise: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(list(parameters(optimizer)), noise)
        loss.backward()
        return loss

    return closure


def twin_closure(optimizer: Any, noise: list[torch.Tensor], rounded: Any) -> Callable[[], Any]:
    """Gradients of the rounded values, for float32 parameters."""

    def closure() -> torch.Tensor:
        p = parameters(optimizer)
        seen = [
            (q.detach().bfloat16() if k in rounded else q.detach().clone()).requires_grad_()
            for k, q in enumerate(p)
        ]
        loss = loss_of(seen, noise)
        loss.backward()
        for q, v in zip(p, seen, strict=True):
            assert v.grad is not None
            q.grad = v.grad.float()
        return loss

    return closure


@each
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_masters_are_those_of_float32_parameters(
    name: str, which: str, backend: str, seed: int
) -> None:
    values, rounded = start(seed), WHICH[which]
    optimizer = made(name, values, rounded, backend=backend)
    twin = made(name, values, (), backend=backend)
    for noise in noises(seed):
        optimizer.step(closure_of(optimizer, noise))
        twin.step(twin_closure(twin, noise, rounded))
        for k, (p, q) in enumerate(zip(parameters(optimizer), parameters(twin), strict=True)):
            assert torch.equal(master(optimizer, p), q)
            assert p.dtype == (torch.bfloat16 if k in rounded else torch.float32)
            assert torch.equal(p, q.to(p.dtype))
    # weights moved by less than half a step of bfloat16, which are kept
    assert any(not torch.equal(master(optimizer, p), p.float()) for p in parameters(optimizer))


def test_small_steps_add_up(seed: int) -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = fs.DSGD([p], lr=1e-3)
    for _ in range(100):
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
    assert (p - 0.95).abs().max() < 2**-9


@pytest.mark.parametrize("name", ["QGM", "QSADDLe", "QGAdam", "EASGD", "GradientTracking"])
@pytest.mark.parametrize("model_first", [True, False])
def test_resumed_runs_have_the_same_bits(name: str, model_first: bool, seed: int) -> None:
    values, rounded = start(seed), WHICH["some"]
    steps = noises(seed)
    optimizer = made(name, values, rounded)
    for noise in steps[:3]:
        optimizer.step(closure_of(optimizer, noise))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    model = [p.detach().clone() for p in parameters(optimizer)]
    resumed = made(name, start(seed + 7), rounded)

    def load_model() -> None:
        with torch.no_grad():
            for p, value in zip(parameters(resumed), model, strict=True):
                p.copy_(value)

    if model_first:
        load_model()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    if not model_first:
        load_model()
    copied, pickled = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    for each_one in (optimizer, resumed, copied, pickled):
        for noise in steps[3:]:
            each_one.step(closure_of(each_one, noise))
        for p, q in zip(parameters(optimizer), parameters(each_one), strict=True):
            assert torch.equal(master(optimizer, p), master(each_one, q))
            assert torch.equal(p, q)


def test_what_is_written_to_parameters_counts(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(9, generator=draw).bfloat16())
    optimizer = fs.DSGD([p], lr=0.01)
    p.grad = torch.randn(9, generator=draw).bfloat16()
    optimizer.step()
    kept = master(optimizer, p).clone()
    # by the tensor, and by `.data`, which no counter of versions sees
    with torch.no_grad():
        p[2] = 3.0
    p.data[5] = -2.0
    p.grad = torch.zeros_like(p)
    optimizer.step()
    kept[2], kept[5] = 3.0, -2.0
    assert torch.equal(master(optimizer, p), kept)
    assert torch.equal(p, kept.bfloat16())


def test_perturbed_models_are_restored_exactly(seed: int) -> None:
    values = start(seed)
    optimizer = made("QSADDLe", values, WHICH["all"])
    optimizer.step(closure_of(optimizer, noises(seed)[0]))
    p = parameters(optimizer)
    before = [(master(optimizer, q).clone(), q.detach().clone()) for q in p]
    closure_of(optimizer, noises(seed)[1])()
    optimizer.perturb()
    assert any(not torch.equal(q, value) for q, (_, value) in zip(p, before, strict=True))
    optimizer.restore()
    for q, (kept, value) in zip(p, before, strict=True):
        assert torch.equal(master(optimizer, q), kept)
        assert torch.equal(q, value)


def test_a_model_may_change_its_dtype(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(4, 3)
    optimizer = fs.DSGDm(model.parameters(), lr=0.05)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        model.to(dtype)
        model(torch.randn(2, 4, dtype=dtype)).square().sum().backward()
        before = model.weight.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        assert model.weight.dtype == dtype and not torch.equal(model.weight, before)
        assert ("master" in optimizer.state[model.weight]) == (dtype == torch.bfloat16)


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (torch.float16, r"float16 for parameter 0: keep them float32 .* GradScaler"),
        (torch.float64, r"float64 for parameter 0: module\.float\(\)"),
        (torch.complex64, "complex64 for parameter 0"),
    ],
)
def test_other_dtypes_are_refused(dtype: torch.dtype, remedy: str) -> None:
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    with pytest.raises(ValueError, match=f"must be float32 or bfloat16, got torch.{remedy}"):
        fs.QGM([p], lr=0.1)
    assert p.grad is None


def test_stacks_are_float32() -> None:
    with pytest.raises(
        ValueError, match=r"stack's parameters must be float32, got torch\.bfloat16"
    ):
        fs.AgentStack(nn.Linear(2, 2).bfloat16(), 3)
