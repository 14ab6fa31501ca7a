"""Every public optimizer still gives the bits that were recorded in recorded_bits.json, on both CPU backends.

`python tests/optimizers/test_recorded_bits.py --write [WORD]` records anew: all cases, or those whose names hold WORD.
Entries of state and groups that are not in the file are not looked at, so that later versions may add some.

They were recorded before the optimizers were composed of parts. Of what was put right since, those cases were recorded
anew whose names hold one of these, and no others:

* "D2 rate drop": how D2's correction goes on after the rate changed; its other cases keep one rate.
* "QSR rate drop", "QSR total": periods after the rate changed, and when the next one is known.
* "mixed quasi-global": NGM and NSADDLe with `qg_momentum` and `mixed_self_gradient` together.
* "ESAM": what is drawn.
* "frozen": parameters that require no gradient stand still.
* "QGAdam", "adaptive" with a compressor, "AdamW": square roots, which were MKL's and differed between processors.

Gradients are written out, and all else is elementwise, so that bits do not depend on torch's version, threads, or
AVX2 and AVX-512. Without either "AdamW" (torch's own) and "adaptive" with top-k (`addcmul`) round otherwise.
"""

import argparse
import hashlib
import inspect
import json
import math
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import networkx as nx
import numpy as np
import pytest
import torch

import fastsaddle as fs
from fastsaddle.kernels._shared.square_root import square_root

FILE = Path(__file__).with_name("recorded_bits.json")
BACKENDS = ("reference", "native")
STEPS = 15
SHAPES = ((7, 5), (33,), (3,))
# two numbers an agent: torch's float32 sums over a row, which LookSAM takes, have one order only
TINY = ((1,), (1,))
# the step and the agent whose gradient holds NaN in broken cases
BROKEN_STEP, BROKEN_AGENT = 5, 2
# when a late group joins
LATE_STEP = 6
RATES: dict[str, Callable[[int], float]] = {
    "constant": lambda step: 1.0,
    "drop": lambda step: 1.0 if step < 8 else 0.25,
    "zero": lambda step: 0.0 if step == 11 else 1.0 if step < 8 else 0.25,
}
IRREGULAR = fs.topology.from_networkx(
    nx.Graph([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 4)])
)


@dataclass(frozen=True)
class Case:
    """One run: the method with its options, how its rate goes, and what is done to it.

    `how`: "closure" for step(closure); "backward" for loss.backward() and step(); "one pass" for a closure of the
    second pass only; "perturb" and "second_step" for the two phases by hand.
    `groups`: "one", "two" with options of their own, "late" where the second joins later, "frozen" and "unused" where
    a parameter needs or gets no gradient.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    rates: str = "drop"
    how: str = "closure"
    groups: str = "one"
    # one rate an agent
    apart: bool = False
    broken: bool = False
    shapes: tuple[tuple[int, ...], ...] = SHAPES

    @property
    def agents(self) -> int | None:
        """How many are stacked; None for ordinary parameters."""
        if "agents" in self.options:
            return self.options["agents"]
        if isinstance(topology := self.options.get("topology"), fs.Topology):
            return topology.agents
        return None if topology is None else 6


class AdamW(torch.optim.AdamW):
    """torch's, with square roots that round alike on every processor."""

    def step(self, closure: Any = None) -> Any:
        with patch.object(torch.Tensor, "sqrt", square_root):
            return super().step(closure)


@cache
def numbers(agents: int, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[np.ndarray, ...]]:
    """For each parameter its start, curvature, and target at each step, all float32."""
    draw = np.random.default_rng(agents)
    sizes = [(agents, *shape) for shape in shapes]
    spread = np.linspace(-0.5, 0.5, agents).reshape(-1, 1)
    return [
        (
            (2 * draw.random(size) - 1).astype(np.float32),
            (0.5 + draw.random(size)).astype(np.float32),
            (
                2 * draw.random((STEPS, *size)) - 1 + spread.reshape(-1, *[1] * (len(size) - 1))
            ).astype(np.float32),
        )
        for size in sizes
    ]


class Run:
    """A case's parameters, optimizer and loss."""

    def __init__(self, case: Case) -> None:
        self.case, self.step_number = case, 0
        alone = case.agents is None
        drawn = numbers(case.agents or 1, case.shapes)
        starts, curvatures, targets = (
            [torch.from_numpy(arrays[k].copy()) for arrays in drawn] for k in range(3)
        )
        if case.broken:
            targets[1][BROKEN_STEP, BROKEN_AGENT, -1] = math.nan
        if alone:
            starts, curvatures = [s[0] for s in starts], [c[0] for c in curvatures]
            targets = [t[:, 0] for t in targets]
        self.curvatures, self.targets = curvatures, targets
        self.parameters = [torch.nn.Parameter(start) for start in starts]
        self.optimizer = self._make()
        self.base = [group["lr"] for group in self.optimizer.param_groups]

    def _make(self) -> Any:
        case, options = self.case, dict(self.case.options)
        rate = options.pop("lr", 0.05)
        if case.apart:
            rate = rate * torch.linspace(0.5, 1.5, case.agents or 1)
        first, *others = self.parameters
        self.late = {"params": others, "lr": rate / 2, **second_options(case.method, options)}
        given: Any = self.parameters
        if case.groups == "two":
            given = [{"params": [first]}, self.late]
        if case.groups == "late":
            given = [{"params": [first]}]
        if case.groups == "frozen":
            others[0].requires_grad_(False)
        return getattr(fs, case.method)(given, rate, **options)

    def loss(self) -> torch.Tensor:
        """A loss whose gradient is a d + d^3 / 16: written out, as autograd's sums have no promised order."""
        terms = []
        for k, p in enumerate(self.parameters):
            if p.requires_grad and not (self.case.groups == "unused" and k == 1):
                d = p.detach() - self.targets[k][self.step_number]
                terms.append((p * (self.curvatures[k] * d + d * d * d * 0.0625)).sum())
        return torch.stack(terms).sum()

    def closure(self, zero: bool = True) -> torch.Tensor:
        if zero:
            self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def step(self) -> None:
        """One step, in the way of the case."""
        optimizer, how = self.optimizer, self.case.how
        if how == "closure":
            optimizer.step(self.closure)
            return
        self.closure()
        if how == "one pass":
            optimizer.step(partial(self.closure, zero=False))
            return
        if how == "perturb":
            optimizer.perturb(zero_grad=True)
            self.closure(zero=False)
        elif how == "second_step":
            optimizer.first_step(zero_grad=True)
            self.closure(zero=False)
            optimizer.second_step(zero_grad=True)
            return
        optimizer.step()

    def whole(self) -> Any:
        """All steps; the optimizer afterwards."""
        scale = RATES[self.case.rates]
        for self.step_number in range(STEPS):
            if self.case.groups == "late" and self.step_number == LATE_STEP:
                self.optimizer.add_param_group(self.late)
                self.base.append(self.late["lr"])
            if self.step_number and scale(self.step_number) != scale(self.step_number - 1):
                for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                    group["lr"] = base * scale(self.step_number)
            try:
                self.step()
            except fs.NonFiniteGradientError:
                assert self.case.broken and self.step_number == BROKEN_STEP
        return self.optimizer


def second_options(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the second of two groups has unlike the first."""
    # `local` optimizers have their own
    if "local" in options:
        return {}
    differs = {"weight_decay": 0.02, "maximize": True}
    if "SADDLe" in method:
        differs["rho"] = 0.1
    return differs


def fingerprint(tensor: torch.Tensor) -> str:
    """The first 16 hexadecimal digits of SHA-256 over a tensor's bytes."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()[:16]


def recordable(value: Any) -> Any:
    """A value as the file holds it: tensors as their fingerprints, all else as JSON reads it back."""
    if isinstance(value, torch.Tensor):
        return fingerprint(value)
    if isinstance(value, dict):
        return {str(name): recordable(item) for name, item in value.items() if name != "params"}
    if isinstance(value, (list, tuple)):
        return [recordable(item) for item in value]
    return value


def outcome(case: Case, backend: str) -> dict[str, Any]:
    """All that is recorded of a run on one backend."""
    run = Run(case)
    with fs.use_backend(backend):
        optimizer = run.whole()
        saved = optimizer.state_dict()
    found = {"x": run.parameters, "state": saved["state"], "groups": saved["param_groups"]}
    if "local" in saved:
        found["local"] = [local["state"] for local in saved["local"]]
    found |= {"bytes_sent": int(optimizer.bytes_sent), "rounds": int(optimizer.rounds)}
    if bool(optimizer.squares.any()):
        found["squares"] = [float(f"{s:.9g}") for s in optimizer.squares.sum(0).tolist()]
    return recordable(found)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry of nested dictionaries and lists, with its path."""
    if isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Where `found` is not what `expected` has; what only `found` has is not looked at."""
    has = dict(leaves(found))
    return [
        f"{path}: {has.get(path, 'missing')} instead of {value}"
        for path, value in leaves(expected)
        if path not in has or not alike(path, has[path], value)
    ]


def alike(path: str, one: Any, other: Any) -> bool:
    # sums of squares are for reports: their order and precision are the backend's
    if path.startswith("squares"):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other and type(one) is type(other)


def all_cases() -> dict[str, Case]:
    """Names to cases: what all methods share first, then the options of each."""
    ring, star, trio = fs.topology.ring(5), fs.topology.star(4), fs.topology.ring(3)
    chain = fs.topology.chain(6)
    found: dict[str, Case] = {}

    def add(method: str, label: str, *args: Any, **kwargs: Any) -> None:
        name = f"{method} {label}"
        assert name not in found
        found[name] = Case(method, *args, **kwargs)

    # a method's own options, and a rate to suit
    momentum = {"momentum": 0.9}
    own: dict[str, dict[str, Any]] = {
        **{n: {} for n in ("DSGD", "DSGDm", "QGM", "DSADDLe", "QSADDLe", "NGM", "NSADDLe")},
        **{n: momentum for n in ("GradientTracking", "D2", "RelaySGD")},
        **{"MomentumTracking": {"momentum": 0.8}, "QGAdam": {"lr": 0.01}, "GUT": {}},
        "PushPull": {},
        **{n: {"agents": 5, "period": 3} for n in ("LocalSGD", "EASGD", "DPPF")},
    }
    for name, options in own.items():
        averages = "agents" in options
        rates = "constant" if name == "D2" else "drop"
        first = {} if averages else {"topology": chain if name == "RelaySGD" else ring}
        second = {} if averages else {"topology": star, "consensus_step": 0.7}
        third = {} if averages else {"topology": IRREGULAR}
        if name == "RelaySGD":
            second, third = {"topology": star}, {"topology": fs.topology.binary_tree(7)}
        add(name, "first graph", options | first, rates)
        add(name, "decay", options | second | {"weight_decay": 0.03}, rates)
        add(name, "two groups", options | third, rates, groups="two")
        add(name, "skip", options | third | {"nonfinite": "skip"}, rates, broken=True)
        add(name, "rate drop to zero" if name == "D2" else "zero rate", options | third, "zero")
        if name in ("DSGDm", "QGM", "QSADDLe", "NGM", "D2", "QGAdam", "LocalSGD"):
            decays = {"weight_decay": 0.03}
            add(name, "frozen", options | first | decays, rates, groups="frozen")
        if name in ("DSGDm", "NSADDLe", "D2", "LocalSGD"):
            add(name, "raise", options | second, rates, broken=True)
            add(name, "maximize", options | first | {"maximize": True}, rates)
            add(name, "unused", options | first | {"weight_decay": 0.03}, rates, groups="unused")
        if name in ("QGM", "NGM", "GUT", "QGAdam", "RelaySGD", "EASGD"):
            add(name, "late group", options | first, rates, groups="late")
        if not averages:
            add(name, "alone", options | {"weight_decay": 0.03}, rates)
        if name != "GUT":
            add(name, "agent rates", options | third, rates, apart=True)

    # gossip: momentum, precision, compression
    add("DSGD", "backward", {"topology": ring}, how="backward")
    for name in ("DSGDm", "QGM", "QSADDLe"):
        add(name, "nesterov", {"topology": ring, "nesterov": True, "momentum": 0.7})
        add(name, "bfloat16", {"topology": ring, "state_dtype": torch.bfloat16, "seed": 3})
        add(name, "fully connected", {"topology": fs.topology.fully_connected(6)})
    for name in ("QGM", "QSADDLe"):
        options = {"topology": star, "momentum": 0.5, "qg_momentum": 0.8}
        add(name, "qg_momentum", options)
        add(name, "qg_momentum zero rate", options | {"nesterov": True}, "zero")
    c, Choco = fs.compressors, fs.Choco
    eight, four = c.StochasticQuantizer(8), c.StochasticQuantizer(4, bucket=32)
    plain = c.StochasticQuantizer(4, bucket=None, norm="l2", levels=15)
    two = c.StochasticQuantizer(2, biased=True)
    top, random, sign, whole = c.TopK(0.3), c.RandomK(0.4), c.Sign(), c.Identity()
    swapped = {"order": "mix-then-compress"}
    compressed: dict[str, Any] = {
        "8 bits": eight,
        "4 bits": four,
        "4 bits l2": plain,
        "4 bits l2 biased": c.StochasticQuantizer(4, norm="l2", biased=True),
        "2 bits biased": two,
        "top-k": top,
        "random-k": random,
        "random-k unbiased": Choco(c.RandomK(0.8, unbiased=True)),
        "sign": sign,
        "identity": whole,
        "identity mixed first": Choco(whole, **swapped),
        "identity running sum": Choco(whole, running_sum=True),
        "8 bits mixed first": Choco(eight, **swapped),
        "4 bits running sum": Choco(four, running_sum=True),
        "top-k adaptive": Choco(top, adaptive=True),
        "sign running sum mixed first": Choco(sign, **swapped, running_sum=True),
    }
    some = ("8 bits", "4 bits l2", "top-k", "8 bits mixed first", "4 bits running sum")
    some_more = (*some, "sign running sum mixed first", "random-k", "top-k adaptive")
    few = ("8 bits", "sign")
    chosen = {"DSGD": compressed, "QGM": some_more, "DSGDm": few, "DSADDLe": few, "QSADDLe": some}
    for name, kinds in chosen.items():
        for kind in kinds:
            options = {"topology": IRREGULAR, "consensus_step": 0.3, "seed": 7}
            add(name, kind, options | {"compressor": compressed[kind]})
        half = {"topology": ring, "consensus_step": 0.4, "state_dtype": torch.bfloat16}
        add(name, "8 bits bfloat16", half | {"compressor": eight})
    pressed = {"topology": ring, "consensus_step": 0.4, "compressor": eight}
    add("DSGD", "8 bits late group", pressed, groups="late")
    for name in ("DSGD", "QGM"):
        add(name, "8 bits two groups", pressed, groups="two")
        add(name, "8 bits skip", pressed | {"nonfinite": "skip"}, broken=True)
        add(name, "top-k two groups", pressed | {"compressor": top}, groups="two")
    add(
        "DSGDm",
        "4 bits bfloat16 mixed first",
        pressed
        | {
            "compressor": Choco(four, **swapped),
            "state_dtype": torch.bfloat16,
            "nesterov": True,
        },
    )

    # sharpness
    sharp = {"topology": ring, "weight_decay": 0.01}
    for name in ("DSADDLe", "QSADDLe"):
        add(name, "adaptive", sharp | {"adaptive": True, "rho": 0.5})
        add(name, "one pass", sharp | {"closure_passes": 1}, how="one pass")
        add(name, "perturb", sharp, how="perturb")
        add(name, "second_step", sharp, how="second_step")
        add(name, "ESAM", sharp | {"sam": fs.ESAM(), "seed": 5})
        add(name, "ESAM adaptive", sharp | {"sam": fs.ESAM(0.5), "adaptive": True}, groups="two")
        add(name, "ESAM 8 bits", pressed | {"sam": fs.ESAM(0.4)})
        add(name, "LookSAM", sharp | {"sam": fs.LookSAM(3)}, shapes=TINY)
        look = {"sam": fs.LookSAM(4, strength=0.2), "adaptive": True, "rho": 0.2}
        add(name, "LookSAM adaptive", sharp | look, shapes=TINY, groups="two")
        add(
            name,
            "LookSAM one pass",
            sharp | {"sam": fs.LookSAM(2), "closure_passes": 1},
            how="one pass",
            shapes=TINY,
        )
        skipped = {"sam": fs.LookSAM(3), "nonfinite": "skip"}
        add(name, "LookSAM skip", sharp | skipped, shapes=TINY, broken=True)
    ahead = {"sam": fs.MomentumSAM(), "rho": 0.5}
    add("QSADDLe", "MomentumSAM", sharp | ahead)
    add("QSADDLe", "MomentumSAM maximize", sharp | ahead | {"maximize": True})
    add("QSADDLe", "MomentumSAM one pass", sharp | ahead | {"closure_passes": 1})
    add("QSADDLe", "MomentumSAM adaptive 8 bits", pressed | ahead | {"adaptive": True})

    # cross-gradients: neighborhoods of three, as every neighbor costs evaluations
    for name in ("NGM", "NSADDLe"):
        model = {"topology": star, "cross_gradients": "model"}
        add(name, "model", model)
        add(name, "nesterov", {"topology": trio, "nesterov": True, "momentum": 0.7})
        mixed = {"mixed_self_gradient": True, "weight_decay": 0.03}
        add(name, "mixed_self_gradient", model | mixed)
        add(name, "qg_momentum", {"topology": ring, "qg_momentum": 0.8, "nesterov": True})
        add(name, "qg_momentum model zero rate", model | {"qg_momentum": 0.9}, "zero")
        both = {"qg_momentum": 0.8, "mixed_self_gradient": True}
        add(name, "mixed quasi-global constant rate", {"topology": ring} | both, "constant")
        add(name, "mixed quasi-global rate drop", model | both)
        add(name, "mixed quasi-global zero rate", {"topology": ring} | both, "zero")
        add(name, "8 bits", pressed | {"seed": 9})
        add(name, "8 bits model", pressed | {"cross_gradients": "model"})
        add(name, "8 bits skip", pressed | {"nonfinite": "skip", "topology": star}, broken=True)
        add(name, "top-k two groups", pressed | {"compressor": top}, groups="two")
        for kind in ("4 bits running sum", "top-k adaptive"):
            add(name, kind, pressed | {"compressor": compressed[kind]})
        add(name, "random-k qg_momentum", pressed | {"compressor": random, "qg_momentum": 0.8})
    add(
        "NGM",
        "model skip",
        {"topology": IRREGULAR, "cross_gradients": "model", "nonfinite": "skip"},
        broken=True,
    )
    near = {"topology": trio, "weight_decay": 0.01}
    add("NSADDLe", "perturb self", near | {"perturb": "self"})
    add("NSADDLe", "perturb self model", near | {"perturb": "self", "cross_gradients": "model"})
    add("NSADDLe", "adaptive", near | {"adaptive": True, "rho": 0.5})
    add("NSADDLe", "MomentumSAM", near | ahead)
    add("NSADDLe", "MomentumSAM qg_momentum", near | ahead | {"qg_momentum": 0.8})
    add("NSADDLe", "ESAM", near | {"sam": fs.ESAM(0.5), "seed": 5})
    add("NSADDLe", "ESAM perturb self", near | {"sam": fs.ESAM(0.5), "perturb": "self"})
    add("NSADDLe", "LookSAM", near | {"sam": fs.LookSAM(3)}, shapes=TINY)
    add(
        "NSADDLe",
        "LookSAM perturb self",
        near | {"sam": fs.LookSAM(3), "perturb": "self", "cross_gradients": "model"},
        shapes=TINY,
    )

    # tracking and whole rows
    for name in ("GradientTracking", "GUT", "RelaySGD", "D2"):
        rates = "constant" if name == "D2" else "drop"
        graph = {"topology": chain if name == "RelaySGD" else star}
        add(name, "nesterov", graph | {"momentum": 0.7, "nesterov": True}, rates)
    add("GradientTracking", "no momentum", {"topology": star})
    add("MomentumTracking", "no momentum", {"topology": star, "momentum": 0.0})
    add("D2", "no momentum", {"topology": star}, "constant")
    half_step = {"topology": fs.topology.ring(6), "consensus_step": 0.5}
    add("D2", "even ring", half_step | momentum, "constant")
    add("D2", "rate drop", {"topology": ring})
    add("D2", "rate drop nesterov", half_step | momentum | {"nesterov": True, "weight_decay": 0.03})
    add("D2", "rate drop agent rates", {"topology": IRREGULAR}, apart=True)
    add("D2", "rate drop two groups", {"topology": IRREGULAR} | momentum, groups="two")
    add("GUT", "momentum", {"topology": ring, "tracking": 0.05, **momentum})
    add(
        "GUT",
        "nesterov zero rate",
        {"topology": ring, "tracking": 0.05, "nesterov": True, **momentum},
        "zero",
    )
    add("RelaySGD", "no momentum", {"topology": chain})
    add("RelaySGD", "ring of two", {"topology": fs.topology.ring(2), "lr": 0.1})
    adam = {"topology": ring, "lr": 0.01}
    add("QGAdam", "both", adam | {"quasi_global": "both"})
    add(
        "QGAdam",
        "both decay",
        adam | {"quasi_global": "both", "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.03},
        "zero",
    )
    add("QGAdam", "betas", adam | {"betas": (0.5, 0.9), "eps": 1e-3}, groups="two")

    # averages
    adamw = partial(AdamW, weight_decay=0.01)
    for name in ("LocalSGD", "EASGD", "DPPF"):
        five = {"agents": 5}
        add(name, "every step", five | {"period": 1, "momentum": 0.0})
        add(name, "nesterov", five | {"nesterov": True, "momentum": 0.7, "weight_decay": 0.03})
        add(name, "QSR", five | {"period": fs.QSR(base=2, growth=0.09)}, "constant")
        add(name, "QSR rate drop", five | {"period": fs.QSR(base=2, growth=0.03)})
        add(name, "QSR rate drop total", five | {"period": fs.QSR(3, 0.05, total=STEPS)})
        add(name, "AdamW", five | {"local": adamw, "lr": 0.01, "period": 4})
        add(name, "one agent", {"agents": 1, "period": 2})
    add("LocalSGD", "QSR total", {"agents": 6, "period": fs.QSR(4, 0.1, total=14)}, "constant")
    add("LocalSGD", "QSR rate drop to zero", {"agents": 5, "period": fs.QSR(2, 0.03)}, "zero")
    add(
        "LocalSGD",
        "AdamW two groups",
        {"agents": 4, "local": adamw, "lr": 0.01, "period": 4},
        groups="two",
    )
    add(
        "LocalSGD",
        "AdamW skip",
        {"agents": 4, "local": adamw, "lr": 0.01, "nonfinite": "skip"},
        broken=True,
    )
    add("EASGD", "pull", {"agents": 8, "period": 2, "pull": 0.6})
    add("DPPF", "pull and push", {"agents": 8, "period": 2, "pull": 0.4, "push": 0.2})
    add("DPPF", "no push", {"agents": 5, "period": 3, "pull": 1.0, "push": 0.0})
    add(
        "DPPF",
        "tensors",
        {"agents": 5, "period": 2, "pull": torch.tensor(0.25), "push": torch.tensor(0.5)},
    )
    return found


CASES = all_cases()


def read() -> dict[str, dict[str, Any]]:
    """The recorded cases by name."""
    return json.loads(FILE.read_text())["cases"] if FILE.exists() else {}


RECORDED = read()


@pytest.fixture(scope="module")
def native() -> str | None:
    """Why the native library cannot run; None where it can."""
    try:
        with fs.use_backend("native"):
            fs.DSGD([torch.nn.Parameter(torch.zeros(3))])
    except ImportError as error:
        return str(error)
    return None


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_bits_are_those_recorded(name: str, backend: str, native: str | None) -> None:
    if backend == "native" and native is not None:
        pytest.skip(native)
    differ = differences(outcome(CASES[name], backend), RECORDED[name])
    assert not differ, f"{name} on {backend}: " + "; ".join(differ)


def test_every_optimizer_is_recorded() -> None:
    public = {
        name
        for name in fs.__all__
        if inspect.isclass(kind := getattr(fs, name))
        and issubclass(kind, fs.Optimizer)
        and kind is not fs.Optimizer
    }
    assert public == {case.method for case in CASES.values()}
    assert list(CASES) == list(RECORDED)


def record(word: str) -> None:
    """Run the cases whose names hold `word` on both backends, and write the file."""
    torch.set_num_threads(1)
    recorded = {}
    for name, case in CASES.items():
        if word not in name and name in RECORDED:
            recorded[name] = RECORDED[name]
            continue
        recorded[name] = outcome(case, "reference")
        # twice on each, so that nothing is recorded that comes out one way or another
        for backend in (*BACKENDS, *BACKENDS):
            differ = differences(outcome(case, backend), recorded[name])
            assert not differ, f"{name} on {backend}: " + "; ".join(differ)
    about = {"torch": torch.__version__, "machine": platform.machine()}
    lines = [
        f"  {json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
        for name, value in recorded.items()
    ]
    text = ",\n".join(lines)
    FILE.write_text(f'{{"recorded_with": {json.dumps(about)}, "cases": {{\n{text}\n}}}}\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", nargs="?", const="", required=True, metavar="WORD")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(parser.parse_args().write)
