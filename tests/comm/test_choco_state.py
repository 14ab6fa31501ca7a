"""State of compressed gossip that survives: public copies and the count of rounds."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.comm.choco import CompressedGossip
from fastsaddle.compressors import RandomK, Sign, StochasticQuantizer, TopK
from fastsaddle.optimizer.shell import Optimizer
from tests.comm.test_choco import Own
from tests.optimizers.test_optimizer_state import METHODS, equal, make, parameters, step, values

pytestmark = pytest.mark.usefixtures("one_thread")
each = pytest.mark.parametrize("name", METHODS)
# one kernel, random indices, and the states that options add
CHOCOS = {
    "8 bits": StochasticQuantizer(8),
    "2 bits": StochasticQuantizer(2, biased=True),
    "random-k": fs.Choco(RandomK(0.3), "mix-then-compress"),
    "running-sum": fs.Choco(TopK(0.3), running_sum=True),
    "adaptive": fs.Choco(Sign(), "mix-then-compress", running_sum=True, adaptive=True),
}
EXTRA = {"running-sum": ["weighted_sum"], "adaptive": ["weighted_sum", "pull_square"]}
# all methods with one compressor, two with the others
each_case = pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for k in CHOCOS for n in METHODS if k == "8 bits" or n in ("dsgdm", "qsaddle")],
)


def compressed(name: str, start: int, kind: str = "8 bits", **options: Any) -> Optimizer:
    """As `make`, which has no argument for the optimizer's seed."""
    draw = torch.Generator().manual_seed(start)
    a, b, c = (nn.Parameter(torch.randn(3, *s, generator=draw)) for s in ((4, 5), (), (7,)))
    method, own = METHODS[name]
    common = {"lr": 0.1, "weight_decay": 0.01, "topology": "ring", "consensus_step": 0.4}
    groups = [{"params": [a, b]}, {"params": [c], "lr": 0.02}]
    return method(groups, **{**common, "compressor": CHOCOS[kind], **own, **options})


def put(optimizer: Optimizer, models: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(parameters(optimizer), models, strict=True):
            p.copy_(value)


def through_a_file(optimizer: Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save({"x": parameters(optimizer), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@each_case
def test_checkpoint_goes_on_bit_for_bit(name: str, kind: str, seed: int) -> None:
    optimizer = compressed(name, seed, kind, seed=5)
    step(optimizer, 4)
    loaded = through_a_file(optimizer)
    fresh = compressed(name, seed + 1, kind, lr=0.3, seed=5)
    step(fresh)
    put(fresh, loaded["x"])
    fresh.load_state_dict(loaded["optimizer"])
    assert int(fresh.rounds) == 4 and equal(values(optimizer), values(fresh))
    step(optimizer, 3)
    step(fresh, 3)
    assert equal(values(optimizer), values(fresh))
    assert torch.equal(optimizer.squares, fresh.squares)


@each_case
def test_what_the_state_holds(name: str, kind: str, seed: int) -> None:
    optimizer = compressed(name, seed, kind)
    assert int(optimizer.rounds) == 0 and not optimizer.flat_state["x_hat"].any()
    step(optimizer, 3)
    state = through_a_file(optimizer)["optimizer"]["state"]
    momentum = [] if optimizer.rule.ascent_state is None else [optimizer.rule.ascent_state]
    extra = EXTRA.get(kind, [])
    assert list(optimizer.flat_state) == [*momentum, "x_hat", *extra]
    for index, p in enumerate(parameters(optimizer)):
        held = state[index]
        assert list(held) == [*momentum, "x_hat", *extra, "step"]
        count = held.pop("step")
        assert count.dtype == torch.int64 and count.dim() == 0 and int(count) == 3
        assert all(t.shape == p.shape and t.dtype == torch.float32 for t in held.values())
    twin = compressed(name, seed + 1, kind)
    twin.load_state_dict(optimizer.state_dict())
    for p in parameters(twin):
        assert twin.state[p]["step"] is twin.rounds and twin.rounds.dtype == torch.int64
    step(twin)
    assert int(twin.rounds) == 4 and int(optimizer.rounds) == 3


def test_a_long_count_is_exact(seed: int) -> None:
    """Beyond what float32 counts, rounds still draw apart."""
    optimizer = compressed("dsgd", seed)
    step(optimizer)
    saved = through_a_file(optimizer)["optimizer"]
    for held in saved["state"].values():
        held["step"] = torch.tensor(2**40 + 1)
    optimizer.load_state_dict(saved)
    step(optimizer, 2)
    assert int(optimizer.rounds) == 2**40 + 3


@each_case
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
def test_copies_step_like_the_original(
    name: str, kind: str, how: Callable[[Any], Any], seed: int
) -> None:
    optimizer = compressed(name, seed, kind, seed=seed)
    step(optimizer, 2)
    before, sent = values(optimizer), optimizer.bytes_sent
    twin = how(optimizer)
    assert equal(values(twin), before) and twin.bytes_sent == sent and int(twin.rounds) == 2
    step(twin, 2)
    assert equal(values(optimizer), before) and int(optimizer.rounds) == 2
    step(optimizer, 2)
    assert equal(values(optimizer), values(twin)) and twin.bytes_sent == 2 * sent


@each_case
@pytest.mark.parametrize("steps", [0, 3])
def test_groups_may_come_later(name: str, kind: str, steps: int, seed: int) -> None:
    """Copies of the first go on, those of the second start at zero, as if both had been there."""
    optimizer, twin = (compressed(name, seed, kind) for _ in range(2))
    step(optimizer, steps)
    step(twin, steps)
    late, held = nn.Parameter(torch.randn(3, 65)), values(optimizer)
    for each_one, p in ((optimizer, late), (twin, nn.Parameter(late.detach().clone()))):
        each_one.add_param_group({"params": [p], "lr": 0.03})
        assert not each_one.state[p]["x_hat"].any()
        assert each_one.state[p]["step"] is each_one.rounds and int(each_one.rounds) == steps
    assert equal([t for t in values(optimizer)[:3]], held[:3])
    for p in parameters(optimizer)[:3]:
        names = [n for n in optimizer.state[p] if n != "step"]
        assert steps == 0 or all(bool(optimizer.state[p][n].any()) for n in names)
    sent = optimizer.bytes_sent
    step(optimizer)
    step(twin)
    assert equal(values(optimizer), values(twin)) and optimizer.bytes_sent > sent
    assert bool(optimizer.state[late]["x_hat"].any())


@each
def test_state_without_copies_starts_them_at_zero(name: str, seed: int) -> None:
    plain = make(name, seed)
    step(plain, 3)
    loaded = through_a_file(plain)
    runs = [compressed(name, seed + other) for other in range(2)]
    for optimizer in runs:
        put(optimizer, loaded["x"])
        optimizer.load_state_dict(loaded["optimizer"])
        assert not optimizer.flat_state["x_hat"].any()
        assert equal(values(plain)[3:], [t for t in momenta(optimizer)])
        step(optimizer, 2)
    assert equal(values(runs[0]), values(runs[1]))


def momenta(optimizer: Optimizer) -> list[torch.Tensor]:
    name = optimizer.rule.ascent_state
    return [] if name is None else [optimizer.state[p][name] for p in parameters(optimizer)]


@each
@pytest.mark.parametrize("kind", ["8 bits", "adaptive"])
def test_unfitting_state_is_refused(name: str, kind: str, seed: int) -> None:
    optimizer, twin = (compressed(name, seed, kind) for _ in range(2))
    step(optimizer, 2)
    step(twin, 2)
    before, groups = values(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    wrong = {"x_hat": torch.randn(3, 1), "step": torch.tensor([2])}
    if kind == "adaptive":
        wrong["weighted_sum"] = wrong["pull_square"] = torch.randn(7)
    for key, value in wrong.items():
        bad = copy.deepcopy(optimizer.state_dict())
        bad["param_groups"][0]["lr"], bad["state"][2][key] = 7.0, value
        shape = r"\(\)" if key == "step" else r"\(3, 7\)"
        got = str(tuple(value.shape)).replace("(", r"\(").replace(")", r"\)")
        message = rf"state {key} of parameter 2 must have shape {shape}, got {got}"
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
        assert equal(values(optimizer), before)
        assert optimizer.state_dict()["param_groups"] == groups
    step(optimizer)
    step(twin)
    assert equal(values(optimizer), values(twin))


@each
def test_copies_come_with_what_is_kept_beside_them(name: str, seed: int) -> None:
    """A running sum that began at zero beside old copies would never be right again."""
    old, new = compressed(name, seed), compressed(name, seed, "adaptive")
    step(old, 2)
    step(new)
    before = values(new)
    message = "x_hat of parameter 0 must come with weighted_sum, pull_square, got .*x_hat, step"
    with pytest.raises(ValueError, match=message):
        new.load_state_dict(old.state_dict())
    assert equal(values(new), before) and int(new.rounds) == 1


@pytest.mark.parametrize("compressor", [None, Sign()])
def test_rounds_are_counted_on(compressor: Any, seed: int) -> None:
    """Through new layouts and copies, with messages that need the count and without."""
    optimizer = make("qgm", seed, compressor=compressor)
    step(optimizer, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert int(twin.rounds) == 2
    optimizer.add_param_group({"params": [nn.Parameter(torch.randn(3, 4))]})
    parameters(optimizer)[0].data = parameters(optimizer)[0].data.clone()
    step(optimizer)
    assert int(optimizer.rounds) == 3


def test_moved_parameters(seed: int) -> None:
    """Assigned elsewhere they are followed with their copies; in another precision they are refused."""
    optimizer, twin = (compressed("qsaddle", seed) for _ in range(2))
    for each_one in (optimizer, twin):
        step(each_one, 2)
    for p in parameters(optimizer):
        p.data = p.data.clone()
    step(optimizer)
    step(twin)
    assert equal(values(optimizer), values(twin)) and int(optimizer.rounds) == 3
    for p in parameters(optimizer):
        p.data = p.data.double()
    with pytest.raises(
        ValueError, match=r"parameters must be float32 or bfloat16, got torch\.float64"
    ):
        step(optimizer)
    assert int(optimizer.rounds) == 3


def test_own_compressors_are_copied_too(seed: int) -> None:
    choco = fs.Choco(Own(0.6, 0.8), running_sum=True)
    optimizer = make("qgm", seed, compressor=choco)
    step(optimizer, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        communicator = twin.communicator
        assert isinstance(communicator, CompressedGossip) and communicator.choco == choco
        step(twin)
        assert not equal(values(twin), values(optimizer))
