"""Options that cannot be: one line that names the rule, exit status 2, and nothing written."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from fastsaddle.cli import main


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("--lr 0", "--lr must be finite and > 0, got 0.0"),
        ("--lr nan", "--lr must be finite and > 0, got nan"),
        ("--rho -0.1", "--rho must be finite and >= 0, got -0.1"),
        ("--momentum 1", "--momentum must be finite and in [0, 1), got 1.0"),
        ("--weight-decay -1", "--weight-decay must be finite and >= 0, got -1.0"),
        ("--alpha 0", "--alpha must be finite and > 0, got 0.0"),
        ("--seed -1", "--seed must be finite and >= 0, got -1"),
        ("--steps 0", "--steps must be >= 1, got 0"),
        ("--agents 0", "--agents must be >= 1, got 0"),
        ("--agents 5000", "agents must be between 1 and the 1433 training samples, got 5000"),
        ("--batch-size 0", "--batch-size must be >= 1, got 0"),
        ("--eval-every 0", "--eval-every must be >= 1, got 0"),
        ("--checkpoint-every 0", "--checkpoint-every must be >= 1, got 0"),
        ("--chunk 0", "--chunk must be >= 1, got 0"),
        ("--threads 0", "--threads must be >= 1, got 0"),
        (
            "--algorithm dsgd --nesterov",
            "dsgd takes no --nesterov: use d2, dppf, dsgdm, easgd, ",
        ),
        (
            "--algorithm qgm --adaptive",
            "qgm takes no --adaptive: add --gradient sam, or use dsaddle, nsaddle or qsaddle",
        ),
        (
            "--algorithm dsgd --sam momentum",
            "dsgd takes no --sam: add --gradient sam, or use dsaddle, nsaddle or qsaddle",
        ),
        (
            "--algorithm qgm --push-schedule rising",
            "qgm takes no --push-schedule: use dppf",
        ),
        (
            "--algorithm qgm --period 8",
            "qgm takes no --period: use dppf, easgd or local-sgd",
        ),
        ("--sam sometimes", "--sam must be one of full, looksam, momentum, esam, got 'sometimes'"),
        ("--sam looksam:0", "period must be a whole number >= 1, got 0"),
        (
            "--algorithm dsaddle --sam momentum",
            'MomentumSAM needs a momentum buffer, Momentum("none") has none',
        ),
        ("--algorithm dppf --period 0", "--period must be a number of steps >= 1 or qsr:4:0.0175"),
        ("--algorithm dppf --pull 1.5", "--pull must be finite and in [0, 1], got 1.5"),
        ("--algorithm relay-sgd", "RelaySGD needs a tree, 15 edges among 16 agents, got"),
        ("--algorithm sgd", "--algorithm must be one of d2, dppf, dsaddle, dsgd, dsgdm, easgd, "),
        ("--dataset letters", "dataset must be one of cifar10, cifar100, digits"),
        ("--model mlp:wide", "mlp:wide: hidden must be int, got 'wide'"),
        ("--model mlp:3:4", "mlp:3:4 has too many arguments after the colon, it takes hidden"),
        ("--model nowhere.py:Net", "nowhere.py is not there"),
        ("--model os.path:Net", "os.path has no callable 'Net'"),
        ("--model os.pathe:Net", "there is no module os.pathe"),
        ("--partition halves", "partition must be one of classes, dirichlet"),
        ("--feature-skew fog", "--feature-skew must be one of color, noise, rotation"),
        ("--epochs 0", "--epochs must be finite and > 0, got 0.0"),
        ("--schedule linear", "--schedule must be constant, cosine, step or step:0.5:0.75"),
        ("--schedule step:0.5:0.2", "milestones must grow between 0 and 1"),
        ("--schedule step:half", "milestones must be numbers"),
        ("--warmup 1", "--warmup must be finite and in [0, 1), got 1.0"),
        ("--lr-decay 0", "--lr-decay must be finite and in (0, 1], got 0.0"),
        ("--consensus-step 1.5", "--consensus-step must be finite and in (0, 1], got 1.5"),
        ("--qg-momentum 1", "--qg-momentum must be finite and in [0, 1), got 1.0"),
        ("--split-seed -1", "--split-seed must be finite and >= 0, got -1"),
        ("--minutes 0", "--minutes must be finite and > 0, got 0.0"),
        ("--topology moebius", "--topology must be one of ring, fully-connected"),
        ("--topology torus:3x3", "torus:3x3 has 9 agents, but 16 are needed"),
        ("--model lenet5", "lenet5 needs images of at least 12x12, got 8x8"),
        (
            "--device cpu --cuda-graph on",
            "--cuda-graph on cannot be: it needs a GPU, got cpu",
        ),
        ("--device tpu", "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("--device cuda:99", "--device cuda:99 is not on this machine"),
        ("--dataset cifar10", "--dataset cifar10 needs --data-dir"),
        ("--dataset cifar10 --data-dir nowhere", "nowhere is not a folder"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_written(
    options: str,
    rule: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *options.split()]) == 2
    said = capsys.readouterr()
    assert rule in said.err
    assert said.err.startswith("fastsaddle: error: ") and said.err.count("\n") == 1
    assert not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", ["--init random", "--lr high", "--unknown 3"])
def test_unreadable_options_are_refused(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *options.split()])
    assert stopped.value.code == 2
    assert not list(tmp_path.iterdir())


def test_local_optimizers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch, fastsaddle as fs\n\n\nclass Mine(fs.LocalSGD):\n"
        "    def __init__(self, params, lr, agents):\n"
        "        super().__init__(params, lr, agents=agents, local=torch.optim.AdamW)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--algorithm", "mine.py:Mine"]) == 2
    assert "makes local optimizers (local=), whose state no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("always:D2 may oscillate")
def test_warnings_are_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as Python itself does; pytest keeps warnings to itself
    monkeypatch.setattr(warnings, "showwarning", shown)
    before = warnings.formatwarning
    options = "--algorithm d2 --agents 8 --model mlp:4 --steps 2 --batch-size 4"
    assert main(["train", *options.split(), "--out", str(tmp_path / "run")]) == 0
    (line,) = [text for text in capfd.readouterr().err.splitlines() if "warning" in text.lower()]
    assert line.startswith("fastsaddle: warning: D2 may oscillate: ")
    assert warnings.formatwarning is before


def shown(*warning: Any, **line: Any) -> None:
    sys.stderr.write(warnings.formatwarning(*warning[:4]))
