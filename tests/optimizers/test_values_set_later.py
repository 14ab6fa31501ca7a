"""Hyperparameters that are changed: a bad value is refused by its name before anything moves, in every method."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.optimizer.hyperparameters import Pair, Range
from tests.optimizers.test_every_optimizer import (
    METHODS,
    closure_of,
    equal,
    make,
    parameters,
    step,
    values,
)

pytestmark = pytest.mark.usefixtures("one_thread")
NAN, INF = float("nan"), float("inf")
# what to set, made anew each time
BAD: dict[str, Callable[[], Any]] = {
    "nan": lambda: NAN,
    "inf": lambda: INF,
    "below": lambda: -0.1,
    "infinite in float32": lambda: 1e39,
    "none": lambda: None,
    "text": lambda: "0.1",
    "bytes": lambda: b"0.1",
    "bool": lambda: True,
    "list": lambda: [0.1, 0.1, 0.1, 0.1],
    "object": object,
    "complex": lambda: 0.1 + 0.1j,
    "tensor nan": lambda: torch.tensor(NAN),
    "tensor below": lambda: torch.tensor(-0.1),
    "tensor bool": lambda: torch.tensor(True),
    "tensor complex": lambda: torch.tensor(0.1 + 0j),
    "one agent's nan": lambda: torch.tensor([0.1, 0.1, NAN, 0.1]),
    "one agent's inf": lambda: torch.tensor([0.1, INF, 0.1, 0.1]),
    "one agent's below": lambda: torch.tensor([0.1, 0.1, 0.1, -0.1]),
    "other agents": lambda: torch.full((3,), 0.1),
    "a column": lambda: torch.full((4, 1), 0.1),
    "nothing": lambda: torch.zeros(0),
}
CHANGED = {
    **{name: {} for name in METHODS},
    "QGM, 8 bits": {"compressor": fs.compressors.StochasticQuantizer(8)},
    "GradientTracking, top-k": {"compressor": fs.compressors.TopK(0.3), "consensus_step": 0.3},
    "LocalSGD, local": {"local": torch.optim.SGD, "weight_decay": 0.0},
}


def made(name: str, seed: int) -> Any:
    return make(name.split(",")[0], seed, **CHANGED[name])


def known(optimizer: Any) -> list[torch.Tensor]:
    """All that a step changes."""
    live = (*optimizer.flat_state.values(), *optimizer.scalar_state.values())
    own = [] if optimizer.locals is None else optimizer.locals.state_dicts()
    local = [t for agent in own for s in agent["state"].values() for t in s.values()]
    found = [*values(optimizer), *(t.clone() for t in live), *local, optimizer.rounds.clone()]
    return [*found, torch.tensor(optimizer.bytes_sent), optimizer.rows.x.clone()]


def refused(optimizer: Any, name: str) -> None:
    """A step raises by the entry's name, and leaves everything as it was."""
    before = known(optimizer)
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        step(optimizer)
    assert all(map(torch.equal, before, known(optimizer)))
    assert not optimizer.perturbed


@pytest.mark.parametrize("name", CHANGED)
def test_bad_values_are_refused_and_good_ones_go_on(name: str, seed: int) -> None:
    optimizer, twin = made(name, seed), made(name, seed)
    step(optimizer, 2)
    step(twin, 2)
    ranges = {n: r for n, r in optimizer.hyperparameters.items() if isinstance(r, Range)}
    assert {"lr", "weight_decay"} <= ranges.keys()
    for entry, rule in ranges.items():
        for group in optimizer.param_groups[::-1]:
            good = group[entry]
            for case, bad in BAD.items():
                if case == "none" and rule.default is None:
                    continue
                group[entry] = bad()
                refused(optimizer, entry)
            del group[entry]
            refused(optimizer, entry)
            group[entry] = good
    step(optimizer, 3)
    step(twin, 3)
    assert equal(optimizer, twin)


@pytest.mark.parametrize("name", ["QGM", "QGAdam", "GUT"])
def test_flags_and_pairs_are_checked_too(name: str, seed: int) -> None:
    optimizer = make(name, seed)
    step(optimizer)
    for entry, rule in optimizer.hyperparameters.items():
        bad = ["no", torch.ones(2), [1.0], 7]
        if isinstance(rule, Pair):
            bad = ["ab", None, (0.9,), (0.9, 1.0), (0.9, NAN), 0.9]
        for group in optimizer.param_groups if not isinstance(rule, Range) else ():
            good = group[entry]
            for value in bad:
                group[entry] = value
                refused(optimizer, entry)
            del group[entry]
            refused(optimizer, entry)
            group[entry] = good
    step(optimizer)


def test_a_tensor_that_is_written_in_place_is_checked_again(seed: int) -> None:
    lr = torch.full((4,), 0.05)
    optimizer = make("QSADDLe", seed)
    for group in optimizer.param_groups:
        group["lr"] = lr
    step(optimizer, 2)
    lr[2] = NAN
    refused(optimizer, "lr")
    lr.data[2] = 0.05
    step(optimizer)
    lr.data[1] = -1.0
    refused(optimizer, "lr")


def test_a_scheduler_that_fails_is_told(seed: int) -> None:
    optimizer = make("QGM", seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: NAN if done == 2 else 1.0)
    for _ in range(2):
        step(optimizer)
        schedule.step()
    refused(optimizer, "lr")


@pytest.mark.parametrize("name", ["DSADDLe", "QSADDLe"])
def test_both_phases_refuse_and_leave_the_model(name: str, seed: int) -> None:
    optimizer = make(name, seed)
    step(optimizer)
    closure = closure_of(optimizer)
    closure()
    before = known(optimizer)
    optimizer.param_groups[1]["rho"] = NAN
    with pytest.raises(ValueError, match=r"^rho must be >= 0 and finite, got nan"):
        optimizer.perturb()
    assert all(map(torch.equal, before, known(optimizer))) and not optimizer.perturbed
    optimizer.param_groups[1]["rho"] = 0.05
    optimizer.perturb()
    closure()
    optimizer.param_groups[1]["lr"] = "fast"
    with pytest.raises(ValueError, match=r"^lr must be >= 0 and finite, got 'fast'"):
        optimizer.step()
    assert all(map(torch.equal, before, known(optimizer))) and not optimizer.perturbed


def test_meetings_that_are_called_read_good_values_only(seed: int) -> None:
    optimizer = make("DPPF", seed)
    step(optimizer)
    before = known(optimizer)
    for group in optimizer.param_groups:
        group["push"] = "hard"
    with pytest.raises(ValueError, match=r"^push must be"):
        optimizer.synchronize()
    assert all(map(torch.equal, before, known(optimizer)))


def ordinary() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(4, 3))]


# part, option -> what makes it
BUILT: dict[str, Callable[[], Any]] = {
    "lr": lambda: fs.DSGD(ordinary(), lr="0.1"),
    "weight_decay": lambda: fs.QGM(ordinary(), weight_decay=[0.1]),
    "momentum": lambda: fs.QGM(ordinary(), momentum="0.9"),
    "qg_momentum": lambda: fs.QSADDLe(ordinary(), qg_momentum=object()),
    "rho": lambda: fs.DSADDLe(ordinary(), rho="0.05"),
    "betas": lambda: fs.QGAdam(ordinary(), betas="ab"),
    "maximize": lambda: fs.DSGD(ordinary(), maximize="no"),
    "nesterov": lambda: fs.DSGDm(ordinary(), nesterov="no"),
    "consensus_step": lambda: fs.DSGD(ordinary(), topology="ring", consensus_step="1"),
    "communicator": lambda: fs.Optimizer(ordinary(), communicator=fs.comm.Gossip),
    "gradient": lambda: fs.Optimizer(ordinary(), gradient=fs.gradients.SAM),
    "rule": lambda: fs.Optimizer(ordinary(), rule=fs.rules.Momentum),
    "sam": lambda: fs.DSADDLe(ordinary(), sam=fs.LookSAM),
    "compressor": lambda: fs.DSGD(
        ordinary(), topology="ring", compressor=fs.compressors.StochasticQuantizer
    ),
    "topology": lambda: fs.DSGD(ordinary(), topology=fs.topology.ring),
    "local": lambda: fs.Optimizer(ordinary(), rule=fs.rules.Torch(None)),
    "agents": lambda: fs.LocalSGD(ordinary(), agents="4"),
    "period": lambda: fs.LocalSGD(ordinary(), agents=4, period="often"),
    "growth": lambda: fs.QSR(growth="0.1"),
    "strength": lambda: fs.LookSAM(strength="0.7"),
    "weights": lambda: fs.ESAM(weights="0.6"),
    "keep": lambda: fs.compressors.TopK("0.1"),
    "bucket": lambda: fs.compressors.StochasticQuantizer(8, bucket="512"),
    "levels": lambda: fs.compressors.StochasticQuantizer(8, levels="7"),
    "bits": lambda: fs.compressors.StochasticQuantizer("8"),
    "every": lambda: fs.comm.Gossip("ring", every="2"),
    "seed": lambda: fs.DSGD(ordinary(), seed="0"),
    "state_dtype": lambda: fs.DSGD(ordinary(), state_dtype="bfloat16"),
    "nonfinite": lambda: fs.DSGD(ordinary(), nonfinite=None),
    "closure_passes": lambda: fs.DSADDLe(ordinary(), closure_passes="2"),
    "backend": lambda: fs.DSGD(ordinary(), backend=1),
}


@pytest.mark.parametrize("option", BUILT)
def test_odd_types_are_refused_by_name_when_an_optimizer_is_made(option: str) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be"):
        BUILT[option]()


@pytest.mark.parametrize("entry", ["lr", "rho"])
def test_a_groups_own_values_are_checked_with_its_parameters_untouched(entry: str) -> None:
    given = ordinary()[0]
    before, at = given.detach().clone(), given.data_ptr()
    with pytest.raises(ValueError, match=rf"^{entry} must be .* got 'x'"):
        fs.QSADDLe([{"params": [given], entry: "x"}], topology="ring")
    assert torch.equal(given, before) and given.data_ptr() == at
    optimizer = fs.QSADDLe(ordinary(), topology="ring")
    with pytest.raises(ValueError, match=rf"^{entry} must be .* got 'x'"):
        optimizer.add_param_group({"params": [given], entry: "x"})
    assert len(optimizer.param_groups) == 1 and parameters(optimizer)[0].shape == (4, 3)


def test_numbers_of_numpy_are_numbers(seed: int) -> None:
    numpy = pytest.importorskip("numpy")
    optimizer, twin = make("QGM", seed), make("QGM", seed, lr=0.05)
    for group in optimizer.param_groups:
        group["lr"] = numpy.float64(group["lr"])
        group["momentum"] = numpy.float64(group["momentum"])
    step(optimizer, 2)
    step(twin, 2)
    assert equal(optimizer, twin)
    for group in optimizer.param_groups:
        group["lr"] = numpy.float32(NAN)
    refused(optimizer, "lr")


@pytest.mark.parametrize("sam", [None, fs.MomentumSAM()])
@pytest.mark.parametrize("bad", ["no", 2, torch.tensor([1.0, 2.0])], ids=str)
def test_directions_that_say_neither_yes_nor_no_perturb_nothing(
    bad: Any, sam: Any, seed: int
) -> None:
    optimizer = make("QSADDLe", seed, sam=sam)
    step(optimizer)
    optimizer.param_groups[0]["maximize"] = bad
    refused(optimizer, "maximize")
    with pytest.raises(ValueError, match=r"^maximize must be"):
        optimizer.train() if sam else optimizer.perturb()
    assert not optimizer.perturbed
