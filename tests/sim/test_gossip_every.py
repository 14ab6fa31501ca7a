"""Runs whose agents take several steps from one gossip to the next: by the command line, as the API has it."""

import json
from pathlib import Path
from typing import Any

import pytest

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.simulation import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = (
    *("--dataset", "digits", "--model", "mlp:5", "--steps", "9", "--eval-every", "3"),
    *("--checkpoint-every", "2", "--agents", "4", "--batch-size", "8", "--threads", "1"),
)


def simulation(**options: Any) -> Simulation:
    few = {"dataset": "digits", "model": "mlp:5", "agents": 4, "steps": 2, "batch_size": 8}
    config = TrainConfig(**{**few, **options})
    config.check()
    return Simulation(config)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        ("--algorithm", "qsaddle"),
        ("--algorithm", "qgm", "--compressor", "stochastic-quantizer:8"),
        ("--algorithm", "dsgd", "--gradient", "sam", "--topology", "one-peer-exponential"),
    ],
)
def test_messages_go_every_third_step(options: tuple[str, ...], tmp_path: Path) -> None:
    for every, name in ((1, "each"), (3, "third")):
        more = ("--gossip-every", str(every), "--out", str(tmp_path / name))
        assert main(["train", *SHORT, *options, *more]) == 0
    each, third = (rows(tmp_path / name) for name in ("each", "third"))
    assert [3 * row["bytes_sent"] for row in third] == [row["bytes_sent"] for row in each]
    # agents drift apart meanwhile
    assert third[-1]["consensus_distance"] > each[-1]["consensus_distance"]
    record = json.loads((tmp_path / "third" / "config.json").read_text())
    assert record["gossip_every"] == 3


def test_a_run_goes_on_between_gossips(tmp_path: Path) -> None:
    options = ("--algorithm", "qsaddle", "--gossip-every", "4")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *SHORT, *options, "--out", str(whole)]) == 0
    assert main(["train", *SHORT, *options, "--out", str(parts), "--minutes", "0.00001"]) in (0, 75)
    assert main(["train", "--resume", str(parts)]) == 0
    told = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(whole)]
    assert [{k: v for k, v in row.items() if "seconds" not in k} for row in rows(parts)] == told


def test_the_optimizer_is_that_of_its_parts() -> None:
    made = simulation(algorithm="qsaddle", gossip_every=3).optimizer
    assert isinstance(made.plan, fs.comm.Gossip) and made.plan.every == 3
    assert isinstance(made.gradient, fs.gradients.SAM)
    # of one it is the class itself
    assert type(simulation(algorithm="qsaddle").optimizer) is fs.QSADDLe


def test_refused() -> None:
    with pytest.raises(ValueError, match="--gossip-every must be >= 1, got 0"):
        simulation(algorithm="qgm", gossip_every=0)
    with pytest.raises(ValueError, match="GradientTracking needs Gossip with every=1"):
        simulation(algorithm="gradient-tracking", gossip_every=2)
    assert main(["train", *SHORT, "--algorithm", "dppf", "--gossip-every", "2"]) == 2
