"""Compression in the simulator: what --compressor names, what a run tells about its messages, and that it goes on."""

import io
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fastsaddle import Choco, compressors
from fastsaddle.cli import main
from fastsaddle.sim.comparison import grid, plot, results, tables
from fastsaddle.sim.comparison.results import Outcome
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import messages
from fastsaddle.sim.run.simulation import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ("--agents", "5", "--batch-size", "8", "--eval-every", "20", "--checkpoint-every", "15")
# one agent's parameters of the default network: two matrices and two biases
SIZES = (64 * 50, 50, 50 * 10, 10)
OWN = """
    from dataclasses import dataclass
    from fastsaddle.compressors import Compressor, Payload

    @dataclass(frozen=True)
    class Half(Compressor):
        share: float = 0.5

        def encode(self, x, seed=0, step=0, *, layout=None, first_agent=0):
            return Payload(tuple(x.shape), layout, {"values": self.share * x})

        def decode_add_(self, payload, out, weight=1.0):
            out += weight * payload.parts["values"]

        def wire_bytes(self, dim):
            return 4 * dim
"""


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_folder_is_the_list() -> None:
    folder = Path(compressors.__file__).parent
    files = {p.stem for p in folder.glob("[!_]*.py")} - {"base"}
    assert {name.replace("-", "_") for name in messages.names()} == files and len(files) >= 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stochastic-quantizer", compressors.StochasticQuantizer()),
        ("stochastic-quantizer:4:64", compressors.StochasticQuantizer(4, 64)),
        ("stochastic-quantizer:2:biased=true", compressors.StochasticQuantizer(2, biased=True)),
        (
            "stochastic-quantizer:8:none:l2:levels=255",
            compressors.StochasticQuantizer(8, None, "l2", 255),
        ),
        ("top-k:0.25", compressors.TopK(0.25)),
        ("random-k:0.25:unbiased=true", compressors.RandomK(0.25, unbiased=True)),
        ("sign", compressors.Sign()),
        ("identity", compressors.Identity()),
    ],
)
def test_what_a_name_means(text: str, expected: compressors.Compressor) -> None:
    choco = messages.build(text, "mix-then-compress", True, False)
    assert choco == Choco(expected, "mix-then-compress", True, False)
    assert TrainConfig(compressor=text).choco == Choco(expected)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--compressor", "quantizer"], "--compressor must be one of none, identity, .*quantizer"),
        (["--compressor", "top-k:2"], r"keep must be in \(0, 1\]"),
        (["--compressor", "stochastic-quantizer:3"], "bits must be 2, 4 or 8, got 3"),
        (["--compressor", "stochastic-quantizer:x"], "bits must be int, got 'x'"),
        (["--compressor", "top-k:0.1:0.2"], "too many arguments"),
        (["--compressor", "random-k:0.1:yes"], "unbiased must be bool"),
        (["--compressor", "torch.nn:Identity"], "must be a subclass of fastsaddle's Compressor"),
        (["--running-sum"], "--running-sum needs a --compressor, got none"),
        (["--adaptive-gossip"], "--adaptive-gossip needs a --compressor, got none"),
    ],
)
def test_refusals(
    options: list[str], rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", *options, "--out", str(run)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(rule, said), said
    assert not run.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--compressor", "stochastic-quantizer:8"),
        ("--compressor", "sign", "--consensus-step", "0.4", "--running-sum"),
        ("--compressor", "random-k:0.3", "--gossip-order", "mix-then-compress"),
        ("--compressor", "top-k:0.2", "--adaptive-gossip", "--algorithm", "qgm"),
    ],
)
def test_a_run_tells_and_goes_on(options: tuple[str, ...], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = ["train", *SMALL, *options, "--steps", "40"]
    for run in (whole, broken):
        assert main([*command, "--out", str(run)]) == 0
    found = rows(whole)
    choco = TrainConfig(compressor=options[1]).choco
    assert choco is not None
    message = sum(map(choco.compressor.wire_bytes, SIZES))
    if isinstance(choco.compressor, compressors.RandomK):
        message -= 8 * (len(SIZES) - 1)
    # a ring of five: each agent sends its message to two neighbors
    assert [row["bytes_sent"] for row in found] == [2 * 5 * message * t for t in (0, 20, 40)]
    assert found[0]["update_norm"] is None
    for row in found[1:]:
        assert 0 < row["error_norm"] < 2 * row["update_norm"]
        assert row["compression_error"] == pytest.approx(row["error_norm"] / row["update_norm"])
    last = sorted(broken.glob("checkpoint-*"))[-1]
    expected = last.read_bytes()
    last.unlink()
    (broken / "curves.png").unlink()
    assert main(["train", "--resume", str(broken)]) == 0
    assert last.read_bytes() == expected == (whole / last.name).read_bytes()
    drop = ("step_seconds", "evaluation_seconds", "seconds")
    lines = [
        [{k: v for k, v in r.items() if k not in drop} for r in rows(x)] for x in (whole, broken)
    ]
    assert lines[0] == lines[1]


def test_identity_is_no_compression(tmp_path: Path) -> None:
    runs = {}
    for name in ("none", "identity"):
        run = tmp_path / name
        assert (
            main(["train", *SMALL, "--compressor", name, "--steps", "20", "--out", str(run)]) == 0
        )
        runs[name] = (run / "checkpoint-20.safetensors").read_bytes()
    assert runs["none"] == runs["identity"]


def test_a_compressor_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))
    options = ("--compressor", "own.py:Half:0.25", "--consensus-step", "0.5")
    assert main(["train", *SMALL, *options, "--steps", "20", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "Half:0.25: " in said and "own.py" not in said
    row = rows(tmp_path / "run")[-1]
    assert row["compression_error"] == pytest.approx(0.75, rel=1e-5)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["compressor"] == f"{tmp_path / 'own.py'}:Half:0.25"


def test_options_without_effect_do_not_multiply_runs() -> None:
    options = {
        "compressor": ["none", "sign"],
        "gossip_order": ["compress-then-mix", "mix-then-compress"],
        "running_sum": [False, True],
    }
    cells = grid.Grid(options).cells()
    assert sorted(c.config.compressor for c in cells) == ["none"] + 4 * ["sign"]


def test_norms_are_means_of_steps() -> None:
    simulation = Simulation(TrainConfig(agents=3, compressor="top-k:0.3", steps=4, batch_size=8))
    norms = []
    for step in range(4):
        simulation.step(step)
        norms.append(simulation.optimizer.squares.mean(0).sqrt())
    assert torch.allclose(simulation.norm_sums, torch.stack(norms).sum(0))
    assert (simulation.norm_sums > 0).all()


def outcome(compressor: str, accuracy: float, seed: int) -> Outcome:
    """A run of two evaluations, as results.read gives it; compressed ones send an eighth."""
    config = TrainConfig(algorithm="qgm", compressor=compressor, seed=seed)
    share = 1 if compressor == "none" else 8
    found = [
        {"step": t, "consensus_accuracy": a, "mean_accuracy": a, "worst_accuracy": a}
        for t, a in ((0, 0.1), (40, accuracy))
    ]
    last: dict[str, Any] = {"bytes_sent": 16e6 / share}
    last.update(update_norm=2.0, compression_error=0.25)
    if compressor == "none":
        last.update(update_norm=None, compression_error=0.0)
    found[-1].update(last, step_seconds=1.0, seconds=2.0, gradient_evaluations=640)
    return Outcome(grid.Cell(config), found, results.measures(found, 16, {}))


def compared() -> list[results.Group]:
    names = ["none", "stochastic-quantizer:8", "stochastic-quantizer:4"]
    outcomes = [outcome(n, 0.8 + 0.01 * s, s) for n in names for s in (0, 1)]
    return results.group(outcomes, ["algorithm", "compressor"])


def test_a_narrow_terminal_still_tells_compressors_apart() -> None:
    for width, has_all in ((70, False), (160, True)):
        console = Console(width=width, file=io.StringIO(), force_terminal=False)
        console.print(tables.show(compared(), "a title", console))
        said = console.file.getvalue()  # type: ignore[attr-defined]
        assert "stochastic-quantizer:8" in said and "stochastic-quantizer:4" in said, said
        assert "80.50 ± 0.71" in said and "0.1" in said and "\u2026" not in said
        assert ("worst" in said) == has_all


def test_bytes_and_errors_in_table_and_picture(tmp_path: Path) -> None:
    groups = compared()
    assert [g.label for g in groups] == [
        "qgm",
        "qgm, stochastic-quantizer:8",
        "qgm, stochastic-quantizer:4",
    ]
    assert [g.mean("bytes") for g in groups] == [1e6, 1.25e5, 1.25e5]
    assert [g.mean("compression_error") for g in groups] == [None, 0.25, 0.25]
    figure = plot._curves(groups, "a title")
    over_bytes = figure.axes[1]
    assert over_bytes.get_xlabel() == "megabytes sent by an agent"
    ends = [line.get_xdata()[-1] for line in over_bytes.get_lines()]  # type: ignore[index]
    assert ends == [1.0, 0.125, 0.125]
    assert len(plot._curves(groups[1:], "a title").axes) == 1
    plot.draw(tmp_path / "comparison.png", groups, (), "a title")
    assert (tmp_path / "comparison.png").read_bytes()[:4] == b"\x89PNG"
