"""Optimizers whose momentum and public copies are bfloat16: one step from float64, bounds, state, refusals, runs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import fastsaddle as fs
from fastsaddle import compressors as fc
from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import checkpoint
from fastsaddle.sim.run.simulation import Simulation
from tests.optimizers.optimizer_snapshots import equal, reload, snapshot, twins

pytestmark = pytest.mark.usefixtures("one_thread")

AGENTS, LR, RHO, BETA, MU, DECAY, GAMMA = 5, 0.05, 0.3, 0.8, 0.6, 0.01, 0.7
SHAPES = ((23, 29), (37,))
QUANTIZER = fc.StochasticQuantizer(8)
LATER = fs.Choco(QUANTIZER, "mix-then-compress")
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "dsgdm": (fs.DSGDm, {}),
    "dsgdm-nesterov": (fs.DSGDm, {"nesterov": True}),
    "qgm": (fs.QGM, {"qg_momentum": MU}),
    "qsaddle": (fs.QSADDLe, {"qg_momentum": MU, "nesterov": True}),
    "dsgd-choco": (fs.DSGD, {"compressor": QUANTIZER}),
    "dsaddle-choco": (fs.DSADDLe, {"compressor": QUANTIZER}),
    "dsgdm-choco": (fs.DSGDm, {"compressor": LATER}),
    "qgm-choco-later": (fs.QGM, {"qg_momentum": MU, "compressor": LATER}),
    "qsaddle-choco": (fs.QSADDLe, {"qg_momentum": MU, "compressor": QUANTIZER}),
}
each_case = pytest.mark.parametrize("case", CASES)


class Work:
    """Agents on a ring, each with a quadratic loss of its own: the gradient is curvature (x - target)."""

    def __init__(self, case: str, seed: int, dtype: Any = torch.bfloat16, **further: Any) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.parameters: list[Tensor] = [
            Parameter(torch.randn(AGENTS, *s, generator=draw)) for s in SHAPES
        ]
        self.targets = [torch.randn(p.shape, generator=draw) for p in self.parameters]
        self.curvatures = [0.5 + torch.rand(p.shape, generator=draw) for p in self.parameters]
        cls, options = CASES[case]
        self.sharp = issubclass(cls, fs.DSADDLe | fs.QSADDLe)
        options = {"weight_decay": DECAY, "consensus_step": GAMMA, "seed": seed, **options}
        if cls not in (fs.DSGD, fs.DSADDLe):
            options["momentum"] = BETA
        if self.sharp:
            options["rho"] = RHO
        options |= {"topology": "ring", "state_dtype": dtype, **further}
        self.optimizer = cls(self.parameters, LR, **options)

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        parts = zip(self.curvatures, self.parameters, self.targets, strict=True)
        loss = torch.stack([(0.5 * a * (p - t) ** 2).sum() for a, p, t in parts]).sum()
        loss.backward()
        return loss

    def run(self, steps: int) -> "Work":
        for _ in range(steps):
            self.optimizer.step(self.loss)
        return self

    def flat(self, parts: list[Tensor]) -> np.ndarray:
        return np.concatenate([p.detach().double().reshape(AGENTS, -1).numpy() for p in parts], 1)

    def state(self, name: str) -> np.ndarray:
        return self.flat([self.optimizer.state[p][name] for p in self.parameters])

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.flat(self.curvatures) * (x - self.flat(self.targets))


def spacing(x: np.ndarray) -> np.ndarray:
    """Between the bfloat16 numbers on both sides of x."""
    return np.exp2(np.maximum(np.frexp(x)[1] - 8, -133).astype(float))


def quantized(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both values that 127 levels of buckets of 512 may give each element."""
    low, high = np.empty_like(t), np.empty_like(t)
    ends = np.cumsum([np.prod(s) for s in SHAPES])
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        for at in range(first, end, 512):
            part = slice(at, min(at + 512, end))
            scale = np.abs(t[:, part]).max(1, keepdims=True) / 127
            low[:, part] = np.floor(t[:, part] / scale) * scale
            high[:, part] = low[:, part] + scale
    return low, high


@each_case
def test_each_step_is_float64s_but_for_rounding_what_is_kept(case: str, seed: int) -> None:
    work = Work(case, seed).run(3)
    optimizer = work.optimizer
    cls, options = CASES[case]
    choco, name = options.get("compressor"), optimizer.rule.ascent_state
    later = isinstance(choco, fs.Choco)
    W = fs.topology.ring(AGENTS).W.double().numpy()
    for _ in range(4):
        x = work.flat(work.parameters)
        m = work.state(name) if name else 0.0
        hat = work.state("x_hat") if choco else None
        work.run(1)
        g = work.gradient(x)
        if work.sharp:
            g = work.gradient(x + RHO * g / np.linalg.norm(g, axis=1, keepdims=True))
        g = g + DECAY * x
        m = (BETA if name else 0.0) * m + g
        h = x - LR * (g + BETA * m if options.get("nesterov") else m)
        if hat is None:
            after = (1 - GAMMA) * h + GAMMA * W @ h
        else:
            told = work.state("x_hat")
            # mixing reads the copies as they are kept
            copies = hat if later else told
            after = h + GAMMA * (W @ copies - copies)
            candidates = [hat + q for q in quantized((after if later else h) - hat)]
            off = [np.abs(told - c) - spacing(np.abs(c)) for c in candidates]
            assert (np.minimum(*off) < 1e-5).all()
        assert np.abs(work.flat(work.parameters) - after).max() < 1e-5
        if cls in (fs.QGM, fs.QSADDLe):
            m = MU * work_before(m, g) + (1 - MU) * (x - after) / LR
        if name:
            error = np.abs(work.state(name) - m)
            assert (error < spacing(np.abs(m)) + 2e-5).all() and error.max() > 1e-4
        for buffer in optimizer.flat_state.values():
            assert buffer.dtype == torch.bfloat16


def work_before(m: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The quasi-global momentum that made m = beta mh + g."""
    return (m - g) / BETA


def test_a_run_stays_within_what_rounding_can_add_up_to(seed: int) -> None:
    """With gradients that do not depend on x, errors add up: d_t <= beta (d_{t-1} + 2^-7 |m_{t-1}|), lr d_t a step."""
    draw = torch.Generator().manual_seed(seed)
    gradient = torch.randn(AGENTS, 3001, generator=draw)
    runs = []
    for dtype in (torch.float32, torch.bfloat16):
        p = Parameter(torch.zeros(AGENTS, 3001))
        optimizer = fs.DSGDm([p], LR, topology="ring", seed=seed, state_dtype=dtype)
        d = bound = 0.0
        for _ in range(100):
            d = 0.9 * (d + 2.0**-7 * optimizer.flat_state["momentum_buffer"].abs().max().item())
            bound += LR * d
            p.grad = gradient.clone()
            optimizer.step()
        runs.append((p.detach().clone(), bound))
    difference = (runs[1][0] - runs[0][0]).double()
    assert 0 < difference.abs().max() <= runs[1][1] + 1e-4
    # unbiased: what is random averages out, a hundred times below the bound
    assert difference.abs().mean() < runs[1][1] / 10
    sigma = difference.std() / difference.numel() ** 0.5
    # mixing makes neighbors' differences alike: five agents may count as one
    assert difference.mean().abs() < 6 * AGENTS**0.5 * sigma


@each_case
def test_backends_agree_to_the_bit(case: str, seed: int) -> None:
    runs = [Work(case, seed, backend=backend) for backend in ("reference", None)]
    # SAM's norms are sums in float64, rounded: unlike with a chance of 1e-8
    snapshots = [snapshot(w.run(5).optimizer, w.parameters) for w in runs]
    assert equal(*snapshots)


@each_case
def test_state_survives(case: str, seed: int) -> None:
    whole, half, fresh = (Work(case, seed) for _ in range(3))
    for work, steps in ((whole, 7), (half, 3), (fresh, 1)):
        work.run(steps)
    reload(half.optimizer, half.parameters, fresh.optimizer, fresh.parameters)
    for name, buffer in half.optimizer.flat_state.items():
        assert buffer.any() and fresh.optimizer.flat_state[name].dtype == torch.bfloat16
        assert torch.equal(fresh.optimizer.flat_state[name], buffer)
    others = [Work(case, seed) for _ in range(2)]
    for other, (optimizer, parameters) in zip(others, twins(half.optimizer), strict=True):
        other.optimizer, other.parameters = optimizer, parameters
    for work in (fresh, *others):
        work.run(4)
        for p, expected in zip(work.parameters, whole.parameters, strict=True):
            assert torch.equal(p, expected)
        for name, buffer in whole.optimizer.flat_state.items():
            assert torch.equal(work.optimizer.flat_state[name], buffer)


def test_float32_state_is_loaded_rounded_to_the_nearest(seed: int) -> None:
    wide = Work("qgm", seed, torch.float32).run(3)
    narrow = Work("qgm", seed)
    held = wide.optimizer.state_dict()
    narrow.optimizer.load_state_dict(held)
    expected = wide.optimizer.flat_state["quasi_global"].bfloat16()
    assert torch.equal(narrow.optimizer.flat_state["quasi_global"], expected)


def test_groups_come_later_and_draw_apart(seed: int) -> None:
    work = Work("qgm", seed).run(3)
    before = work.state("quasi_global")
    extra = Parameter(torch.randn(AGENTS, 53, generator=torch.Generator().manual_seed(seed)))
    work.optimizer.add_param_group({"params": [extra], "lr": 0.01})
    assert (work.state("quasi_global") == before).all()
    assert work.optimizer.flat_state["quasi_global"].dtype == torch.bfloat16
    twin = Parameter(torch.randn(AGENTS, 53))
    work.optimizer.add_param_group({"params": [twin], "lr": 0.01})
    with torch.no_grad():
        twin.copy_(extra)
    extra.grad = torch.randn(AGENTS, 53)
    twin.grad = extra.grad.clone()
    work.optimizer.step()
    state = work.optimizer.state
    # the same numbers, rounded by other bits
    assert torch.equal(extra, twin)
    assert not torch.equal(state[extra]["quasi_global"], state[twin]["quasi_global"])


def test_float32_is_as_it_was(seed: int) -> None:
    plain, asked = Work("qgm", seed, torch.float32), Work("qgm", seed, torch.float32, backend=None)
    assert not plain.optimizer.counts_rounds
    assert all(b.dtype == torch.float32 for b in asked.optimizer.flat_state.values())
    looks = Work("qsaddle", seed, sam=fs.LookSAM(2)).run(3).optimizer.flat_state
    assert looks["quasi_global"].dtype == torch.bfloat16
    assert looks["sharp_direction"].dtype == torch.float32


def test_agents_that_are_skipped_keep_their_momentum(seed: int) -> None:
    work = Work("dsgdm", seed, nonfinite="skip").run(2)
    before = work.state("momentum_buffer")
    work.loss()
    with torch.no_grad():
        work.optimizer.rows.g[3, 5] = float("nan")
    work.optimizer.step()
    same = (work.state("momentum_buffer") == before).mean(1)
    assert same[3] == 1.0 and (np.delete(same, 3) < 0.5).all()


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "half": (fs.QGM, {"state_dtype": torch.float16}, "state_dtype must be torch.float32 or"),
    "text": (fs.DSGD, {"state_dtype": "bfloat16"}, "state_dtype must be torch.float32 or"),
    "sign": (fs.QGM, {"compressor": fc.Sign()}, "need an unbiased StochasticQuantizer"),
    "biased": (
        fs.DSADDLe,
        {"compressor": fc.StochasticQuantizer(2, biased=True)},
        "need an unbiased StochasticQuantizer",
    ),
    "adaptive": (
        fs.DSGDm,
        {"compressor": fs.Choco(QUANTIZER, adaptive=True)},
        "without running_sum and adaptive, got Choco",
    ),
    "running-sum": (
        fs.DSGD,
        {"compressor": fs.Choco(QUANTIZER, running_sum=True)},
        "without running_sum and adaptive, got Choco",
    ),
    "momentum-sam": (fs.QSADDLe, {"sam": fs.MomentumSAM()}, "MomentumSAM needs state_dtype"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_moves(case: str) -> None:
    cls, options, message = REFUSED[case]
    p = Parameter(torch.randn(4, 9))
    before, place = p.detach().clone(), p.data_ptr()
    with pytest.raises(ValueError, match=message):
        cls([p], **{"topology": "ring", "state_dtype": torch.bfloat16, **options})
    assert p.data_ptr() == place and torch.equal(p, before) and p.grad is None


@pytest.mark.parametrize("cls", [fs.NGM, fs.GUT, fs.LocalSGD, fs.NSADDLe])
def test_other_methods_have_no_such_argument(cls: Any) -> None:
    with pytest.raises(TypeError, match="state_dtype"):
        cls([Parameter(torch.zeros(4, 3))], state_dtype=torch.bfloat16)


RUN = TrainConfig(agents=4, steps=12, threads=1, state_dtype="bfloat16")


@pytest.mark.parametrize("compressor", ["none", "stochastic-quantizer:8"])
def test_a_run_goes_on_from_its_checkpoint(compressor: str, tmp_path: Path, seed: int) -> None:
    config = replace(RUN, compressor=compressor, seed=seed)
    whole, half, rest = (Simulation(config) for _ in range(3))
    for step in range(12):
        whole.step(step)
    for step in range(5):
        half.step(step)
    path = checkpoint.save(tmp_path, half.tensors(), 5, half.counters())
    tensors, step, counters = checkpoint.load(path)
    assert tensors["optimizer.quasi_global"].dtype == torch.bfloat16
    rest.restore(tensors, counters)
    for number in range(step, 12):
        rest.step(number)
    for name, tensor in whole.tensors().items():
        assert torch.equal(rest.tensors()[name], tensor), name


def accuracies(folder: Path) -> Iterator[float]:
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "consensus_accuracy" in record:
            yield record["consensus_accuracy"]


def test_the_default_run_is_as_accurate(tmp_path: Path) -> None:
    reached = {}
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        assert main(["train", "--state-dtype", dtype, "--threads", "1", "--out", str(out)]) == 0
        reached[dtype] = list(accuracies(out))[-1]
        assert json.loads((out / "config.json").read_text())["state_dtype"] == dtype
    assert abs(reached["float32"] - reached["bfloat16"]) <= 0.01, reached


def test_the_command_line_says_who_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--algorithm", "ngm", "--state-dtype", "bfloat16"]) == 2
    assert (
        "ngm takes no --state-dtype: use dsaddle, dsgd, dsgdm, qgm or qsaddle"
        in capsys.readouterr().err
    )
    options = ["--model", "resnet20", "--agents", "4096", "--state-dtype", "bfloat16"]
    assert main(["info", *options]) == 0
    told = capsys.readouterr().out
    assert "qsaddle keeps 3.5 rows an agent" in told
    assert "4,096 agents: 15.64 GB" in told
    assert main(["info", *options, "--compressor", "stochastic-quantizer:8"]) == 0
    assert "qsaddle keeps 4 rows an agent" in capsys.readouterr().out
