"""Runs on graphs that point one way: from files, with push-sum or two matrices, resumed, refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.simulation import Simulation
from tests.optimizers.directed_oracles import digraph

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS = 5
SHORT = (
    *("--dataset", "digits", "--model", "mlp:5", "--steps", "6", "--eval-every", "3"),
    *("--checkpoint-every", "2", "--agents", str(AGENTS), "--batch-size", "8", "--threads", "1"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> Path:
    monkeypatch.chdir(tmp_path)
    P = digraph(AGENTS, seed)
    np.save("columns.npy", P.numpy())
    np.save("rows.npy", (P.T).numpy())
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        ("--algorithm", "dsgd", "--push-sum", "--topology", "columns.npy"),
        ("--algorithm", "QSADDLe", "--push-sum", "--topology", "columns.npy"),
        ("--algorithm", "push-pull", "--topology", "columns.npy"),
        ("--algorithm", "PushPull", "--gradient", "sam", "--topology", "rows.npy"),
        ("--algorithm", "dsgdm", "--gradient", "sam", "--push-sum", "--topology", "columns.npy"),
    ],
    ids=lambda options: " ".join(options[1:]),
)
def test_goes_on_with_the_same_bits(
    options: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SHORT, *options]) == 0
    capsys.readouterr()
    (run,) = (here / "runs").iterdir()
    stored = json.loads((run / "config.json").read_text())
    assert stored["push_sum"] is ("--push-sum" in options)
    whole, half = run / "checkpoint-6.safetensors", run / "checkpoint-4.safetensors"
    expected = whole.read_bytes()
    whole.unlink()
    assert half.is_file()
    assert main(["train", "--resume", str(run)]) == 0
    assert whole.read_bytes() == expected


def simulation(**options: Any) -> Simulation:
    few = {"dataset": "digits", "model": "mlp:5", "agents": AGENTS, "steps": 2, "batch_size": 8}
    config = TrainConfig(**{**few, **options})
    config.check()
    return Simulation(config)


def test_refused(here: Path) -> None:
    columns, rows = str(here / "columns.npy"), str(here / "rows.npy")
    with pytest.raises(ValueError, match=r"DSGD needs a doubly stochastic .*push_sum=True keeps"):
        simulation(algorithm="dsgd", topology=columns)
    with pytest.raises(ValueError, match=r"is row-stochastic: gossip along it moves the mean"):
        simulation(algorithm="qsaddle", topology=rows)
    with pytest.raises(
        ValueError, match=r"takes no --push-sum: use dsaddle, dsgd, dsgdm, qgm or qs"
    ):
        simulation(algorithm="d2", push_sum=True)
    with pytest.raises(
        ValueError, match=r"--push-sum sends models whole, it takes no --compressor"
    ):
        simulation(algorithm="dsgd", topology=columns, push_sum=True, compressor="sign")
    with pytest.raises(
        ValueError, match=r"--ccl-model and --ccl-data need edges that go both ways"
    ):
        simulation(algorithm="dsgd", topology=columns, push_sum=True, ccl_model=0.1)


def test_info_tells_of_such_a_graph(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--topology", "columns.npy", "--agents", str(AGENTS), "--model", "mlp")
    assert main(["info", *options, "--push-sum"]) == 0
    said = capsys.readouterr().out
    assert "columns.npy: " in said and "column-stochastic" in said


def test_what_push_sum_has_nothing_to_do_on_is_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "edges.txt").write_text("0 1\n1 2\n2 0\n")
    few = ("--algorithm", "dsgd", "--push-sum", "--steps", "1", "--model", "mlp:5")
    for graph, agents, is_told in (("edges.txt", 3, True), ("columns.npy", AGENTS, False)):
        assert main(["train", *few, "--topology", graph, "--agents", str(agents)]) == 0
        told = f"push-sum changes nothing here: W of {graph} is doubly stochastic"
        assert (told in capsys.readouterr().out) is is_told


def test_faults_of_a_directed_graph_name_a_way_out() -> None:
    said = "such as one-peer-exponential:undirected, or push_sum=True"
    with pytest.raises(ValueError, match=said):
        simulation(topology="one-peer-exponential", faults="links:0.1")


def test_bits_on_an_undirected_graph_are_those_without(here: Path) -> None:
    with_it, without = (simulation(algorithm="qgm", push_sum=sums) for sums in (True, False))
    for made in (with_it, without):
        for step in range(2):
            made.step(step)
    assert (with_it.stack.x == without.stack.x).all()
