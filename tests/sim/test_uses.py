"""Options that a run has no use for: refused where they are typed, in grids where none of the runs has use for them."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import methods
from fastsaddle.sim.comparison import grid_source
from fastsaddle.sim.config import DEFAULTS, TrainConfig
from fastsaddle.sim.uses import obstacle

OWN = """
import fastsaddle as fs


class Rule(fs.rules.Rule):
    hyperparameters = {"momentum": fs.rules.Range(0, 1, default=0.5), "nesterov": fs.rules.Flag()}

    def step(self, rows, comm):
        rows.x.copy_(comm.mixed(rows.descended(rows.x, rows.g)))


class Still(fs.rules.Rule):
    hyperparameters = {"nesterov": fs.rules.Flag()}

    def step(self, rows, comm):
        rows.x.copy_(comm.mixed(rows.descended(rows.x, rows.g)))


class Gradient(fs.gradients.Gradient):
    def __init__(self, rho):
        self.rho = rho


class Whole(fs.Optimizer):
    def __init__(self, params, lr=0.1, *, topology=None, rho=0.1, speed: float = 1.0):
        super().__init__(params, lr * speed, communicator=fs.comm.Gossip(topology))


def halves(labels, agents):
    import numpy as np
    return np.array_split(np.arange(len(labels)), agents)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            "--algorithm qgm --rho 0.1",
            "qgm takes no --rho: add --gradient sam, or use dsaddle, nsaddle or qsaddle",
        ),
        # the value that it would have anyway
        ("--algorithm qgm --rho 0.05", "qgm takes no --rho: add --gradient sam"),
        ("--algorithm=qgm --rho=0.1", "qgm takes no --rho: add --gradient sam"),
        ("--gradient plain --rho 0.1", "qsaddle with --gradient plain takes no --rho"),
        ("--gradient mine.py:Gradient --adaptive", "takes no --adaptive: add --gradient sam"),
        ("--algorithm dsgd --momentum 0.5", "dsgd takes no --momentum: use d2, "),
        ("--algorithm dsgd --qg-momentum 0.5", "dsgd takes no --qg-momentum: use ngm, "),
        ("--algorithm d2 --nesterov", "--nesterov needs a --momentum above 0"),
        ("--momentum 0 --nesterov", "--nesterov needs a --momentum above 0"),
        ("--algorithm mine.py:Still --nesterov", "--nesterov needs a --momentum above 0"),
        ("--algorithm local-sgd --consensus-step 0.5", "local-sgd takes no --consensus-step: use"),
        ("--algorithm local-sgd --topology ring", "local-sgd takes no --topology: use"),
        ("--algorithm easgd --compressor sign", "easgd takes no --compressor: use"),
        ("--algorithm easgd --push 0.3", "easgd takes no --push: use dppf"),
        ("--algorithm local-sgd --pull 0.3", "local-sgd takes no --pull: use dppf or easgd"),
        ("--pull-schedule rising", "qsaddle takes no --pull-schedule: use dppf or easgd"),
        ("--tracking 0.5", "qsaddle takes no --tracking: use gut"),
        ("--quasi-global both", "qsaddle takes no --quasi-global: use qg-adam"),
        ("--perturb self", "qsaddle takes no --perturb: use nsaddle"),
        ("--algorithm nsaddle --gradient plain --perturb self", "--perturb needs sharpness-aware"),
        ("--algorithm gut --state-dtype bfloat16", "gut takes no --state-dtype: use"),
        ("--algorithm mine.py:Whole --weight-decay 0.1", "mine.py:Whole takes no --weight-decay"),
        ("--algorithm mine.py:Whole --momentum 0.1", "mine.py:Whole takes no --momentum"),
        ("--algorithm mine.py:Whole --compressor sign", "mine.py:Whole takes no --compressor"),
        ("--gossip-order mix-then-compress", "--gossip-order needs a --compressor, got none"),
        ("--adaptive-gossip", "--adaptive-gossip needs a --compressor, got none"),
        ("--partition iid --alpha 1", "--partition iid takes no --alpha"),
        ("--partition mine.py:halves --alpha 1", "--partition mine.py:halves takes no --alpha"),
        ("--partition sorted --split-seed 1", "--partition sorted draws nothing"),
        ("--data-dir here", "--dataset digits takes no --data-dir"),
        ("--download", "--dataset digits takes no --download"),
        ("--lr-decay 0.5", "--lr-decay needs --schedule step, got constant"),
        ("--schedule cosine --lr-decay 0.5", "--lr-decay needs --schedule step, got cosine"),
        ("--norm-decay", "--norm-decay needs a --weight-decay above 0"),
        ("--steps 10 --epochs 2", "--steps and --epochs exclude each other"),
        ("--engine loop --chunk 4", "--engine loop takes agents one by one, it takes no --chunk"),
        ("--lr 0.1 --lr 0.2", "--lr is given twice"),
        ("--nesterov --no-nesterov", "--nesterov is given twice"),
        ("--option momentum=0.8,momentum=0.9", "--option: momentum is given twice"),
        ("--momentum 0.8 --option momentum=0.9", "--momentum is given twice: as such and by"),
        (
            "--algorithm mine.py:Rule:0.3 --option momentum=0.9",
            "mine.py:Rule:0.3: momentum is given twice",
        ),
        (
            "--compressor stochastic-quantizer:8:biased=true:biased=false",
            "biased is given twice",
        ),
        ("--minutes 1 --agnts 3", "nrecognized"),
    ],
)
def test_train_refuses_what_does_nothing(
    options: str, reason: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["train", "--out", "run", *options.split()])
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    assert status == 2 and reason in said.err + said.out
    assert not (own / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--algorithm qgm --gradient sam --rho 0.1 --adaptive",
        "--algorithm mine.py:Rule --momentum 0.3 --nesterov --weight-decay 0.1",
        "--algorithm mine.py:Whole --rho 0.2 --option speed=2",
        "--algorithm d2 --momentum 0.5 --nesterov --consensus-step 0.5",
        "--algorithm local-sgd --compressor none --no-adaptive --period 2",
        "--partition quantity --alpha 1 --split-seed 3",
        "--partition sorted --feature-skew noise --split-seed 3",
        "--algorithm QSADDLe --dataset Digits --model MLP:7 --topology Ring --partition IID",
    ],
)
def test_train_takes_what_acts(options: str, own: Path) -> None:
    small = ["--agents", "4", "--steps", "2", "--batch-size", "4"]
    assert main(["train", "--out", "run", *small, *options.split()]) == 0


def test_names_are_the_same_in_any_capitals() -> None:
    written = dict(algorithm="QSADDLe", dataset="Fashion_MNIST", model="LeNet5", engine="VMAP")
    names = dict(algorithm="qsaddle", dataset="fashion-mnist", model="lenet5", engine="vmap")
    assert TrainConfig(**written) == TrainConfig(**names)  # type: ignore[arg-type]
    more = TrainConfig(topology="Torus:2x8", compressor="TopK:0.1", feature_skew="Noise:0.3")
    assert (more.topology, more.compressor) == ("torus:2x8", "top-k:0.1")
    assert TrainConfig(algorithm="a/QGM.py:QGM").algorithm == "a/QGM.py:QGM"


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ("--algorithm qsadle", "qsaddle"),
        ("--algorithm SGD", "dsgd"),
        ("--model lenet", "lenet5"),
        ("--dataset fashionmnist-2", "fashion-mnist"),
        ("--partition dirichlett", "dirichlet"),
        ("--topology ringg", "ring"),
        ("--compressor topk2", "top-k"),
        ("--sam looksamm", "looksam"),
        ("--engine vmp", "vmap"),
        ("--feature-skew rotatoin:90", "rotation"),
    ],
)
def test_a_wrong_name_is_answered_by_the_near_one(
    options: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *options.split()]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f", did you mean {near}?\n") and said.count("\n") == 1


def test_what_a_method_takes_is_what_its_constructor_names() -> None:
    """No list of ours may say otherwise, for any method."""
    for name in methods.names():
        cls: Any = methods.find(name).function
        given = inspect.signature(cls).parameters
        for option in methods.OF_OPTIMIZERS:
            assert methods.takes(name, option) == (option in given), (name, option)
    assert {n for n in methods.OF_OPTIMIZERS} <= DEFAULTS.keys()
    named = {
        p for n in fs.__all__ if isinstance(c := getattr(fs, n), type)
        and issubclass(c, fs.Optimizer) and c is not fs.Optimizer
        for p in inspect.signature(c).parameters
    }  # fmt: skip
    # every argument of a constructor that is an option is told to be an optimizer's, but those of whole runs
    assert (named & DEFAULTS.keys()) - {"agents", "seed", "placement"} == set(methods.OF_OPTIMIZERS)


def test_in_a_comparison_an_option_counts_for_those_that_take_it() -> None:
    both = ["--algorithm", "qgm", "qsaddle", "local-sgd", "--seed", "0"]
    further = ["--rho", "0.1", "--compressor", "sign", "--consensus-step", "0.3", "--period", "8"]
    found = {c.config.algorithm: c.config for c in grid_source.build(None, both + further).cells()}
    assert [found[a].rho for a in found] == [0.05, 0.1, 0.05]
    assert [found[a].compressor for a in found] == ["sign", "sign", "none"]
    assert [found[a].consensus_step for a in found] == [0.3, 0.3, 1.0]
    assert [found[a].period for a in found] == ["4", "4", "8"]
    options = "--algorithm qgm --gradient plain sam --rho 1 --seed 0"
    sam = grid_source.build(None, options.split())
    assert [(c.config.gradient, c.config.rho) for c in sam.cells()] == [("plain", 0.05), ("sam", 1)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--algorithm qgm dsgd --rho 0.1 0.2", "qgm takes no --rho: add --gradient sam"),
        ("--algorithm local-sgd easgd --compressor sign", "local-sgd takes no --compressor"),
        ("--partition iid sorted --alpha 1 10", "--partition iid takes no --alpha"),
        ("--lr-decay 0.2 --schedule constant cosine", "--lr-decay needs --schedule step"),
    ],
)
def test_a_comparison_refuses_what_none_of_its_runs_takes(options: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        grid_source.build(None, options.split())


def test_a_grid_file_refuses_it_too(own: Path) -> None:
    path = own / "g.toml"
    for text in (
        'algorithm = "qgm"\nrho = 0.1',
        'algorithm = "qgm"\n[tune]\nrho = [0.1, 0.2]',
        'algorithm = ["qgm", "dsgd"]\n[[override]]\nwhen = { algorithm = "qgm" }\nrho = 0.1',
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match="qgm takes no --rho"):
            grid_source.build(path, [])
    # the command line may narrow what a file is for, but not add what does nothing
    path.write_text('algorithm = ["qgm", "qsaddle"]\nrho = 0.1')
    assert len(grid_source.build(path, ["--algorithm", "qgm"]).cells()) == 1
    with pytest.raises(ValueError, match="qgm takes no --push"):
        grid_source.build(path, ["--algorithm", "qgm", "--push", "0.1"])


def test_stored_runs_with_all_options_go_on(own: Path) -> None:
    """config.json holds every option, and those of earlier versions may hold idle numbers."""
    small = ["--algorithm", "qgm", "--agents", "4", "--steps", "4", "--batch-size", "4"]
    assert main(["train", *small, "--out", "run"]) == 0
    path = own / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config["rho"] == 0.05
    path.write_text(json.dumps({**config, "rho": 0.3, "push": 2.0, "lr_decay": 0.7}))
    (own / "run" / "checkpoint-4.safetensors").unlink()
    assert main(["train", "--resume", "run"]) == 0


def test_every_option_is_of_use_somewhere() -> None:
    """The defaults with an option changed: no run has use for it only where something else asks for it."""
    idle = {n for n in DEFAULTS if obstacle(TrainConfig(), n) is not None}
    assert "lr" not in idle and "agents" not in idle and "rho" not in idle
    assert idle <= {*methods.OF_OPTIMIZERS, *methods.SCHEDULED} | {
        *("data_dir", "download", "lr_decay", "norm_decay"),
        *("gossip_order", "running_sum", "adaptive_gossip"),
    }
