"""What the command line says of options and files, where the library speaks of arguments and objects."""

from pathlib import Path

import numpy as np
import pytest

from fastsaddle.cli import _as_line, main
from fastsaddle.sim.commands.spelling import as_typed


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("push_sum=True keeps the mean", "--push-sum keeps the mean"),
        ("take running_sum=False", "take --no-running-sum"),
        ("consensus_step=0.5 mixes", "--consensus-step 0.5 mixes"),
        ("helped by consensus_step=0.5.", "helped by --consensus-step 0.5."),
        ('with overlap="auto" rows are sent', "with --overlap auto rows are sent"),
        ("weight_decay must be >= 0, got -1", "--weight-decay must be >= 0, got -1"),
        ("lr must be finite", "--lr must be finite"),
        ("fs.PushPull takes either", "--algorithm push-pull takes either"),
        ("got Topology(p.npy, agents=5, spectral_gap=0.3)", "got the topology p.npy"),
        ("of Schedule(matchings, agents=8, drawn): no", "of the topology matchings: no"),
    ],
)
def test_arguments_become_options(message: str, typed: str) -> None:
    assert as_typed(message) == typed


@pytest.mark.parametrize(
    "message",
    [
        "/home/me/batch_size/net.py is not there",
        "mine.py has no callable 'consensus_step'",
        "rank 2 is down, got Gossip(every=2, consensus_step=0.5)",
        "a wrong lr makes models diverge",
        "fs.Choco(Sign(), order='x') and fs.rules.Momentum",
        "--consensus-step must be finite and in (0, 1], got 2.0",
        "got momentum=high",
    ],
)
def test_other_words_stay(message: str) -> None:
    assert as_typed(message) == message


def test_errors_and_warnings_name_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    heard = np.roll(np.eye(5), 1, 0) + np.eye(5)
    heard[0, 3] = 1
    np.save("p.npy", heard / heard.sum(0))
    (tmp_path / "mine.py").write_text(
        "import numpy\ndef graph(agents):\n    return numpy.load('p.npy')\n"
    )
    for graph in ("p.npy", "mine.py:graph"):
        options = ("--algorithm", "dsgd", "--agents", "5", "--topology", graph, "--out", "run")
        assert main(["train", *options]) == 2
        said = capsys.readouterr().err
        assert f"the topology {graph} is column-stochastic: --push-sum keeps the mean" in said
    options = ("--algorithm", "d2", "--agents", "16", "--topology", "torus", "--out", "run")
    assert main(["train", *options]) == 2
    assert "the topology torus:4x4: --consensus-step 0.5 mixes by" in capsys.readouterr().err
    warning = RuntimeWarning("D2 may oscillate: consensus_step=0.5 mixes by (W + I) / 2")
    assert "oscillate: --consensus-step 0.5 mixes" in _as_line(warning)
