"""The protocol of a run: rates, weight decay, initial models, what is evaluated, deadlines, TensorBoard."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.initial_models import build
from fastsaddle.sim.run.simulation import Simulation

SMALL = TrainConfig(agents=3, batch_size=8, steps=8, algorithm="dsgd", threads=1)


def test_steps_follow_the_schedule() -> None:
    config = replace(SMALL, schedule="step:0.25:0.5", lr_decay=0.5, warmup=0.25, lr=0.2)
    simulation = Simulation(config)
    seen = []
    for step in range(8):
        simulation.step(step)
        seen += [group["lr"] for group in simulation.optimizer.param_groups]
    assert seen == pytest.approx([0.1, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])


def test_one_step_of_plain_descent_by_hand() -> None:
    """One agent, no gossip: what the option names must be what torch.optim.SGD does."""
    config = replace(SMALL, agents=1, model="cnn5", weight_decay=0.3, lr=0.05, engine="loop")
    simulation = Simulation(config)
    module = simulation.stack.agent(0)
    inputs, labels = simulation.data.batch(0)
    norms = [p for n, p in module.named_parameters() if p.dim() == 3]
    others = [p for n, p in module.named_parameters() if p.dim() != 3]
    groups = [{"params": others, "weight_decay": 0.3}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    torch.nn.functional.cross_entropy(module(inputs[0]), labels[0]).backward()
    optimizer.step()
    simulation.step(0)
    for p, q in zip(simulation.stack.agent(0).parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    everywhere = Simulation(replace(config, norm_decay=True))
    assert len(everywhere.optimizer.param_groups) == 1


def test_initial_models() -> None:
    same = Simulation(SMALL).stack
    assert torch.equal(same.x, same.x[:1].expand_as(same.x))
    stack = Simulation(replace(SMALL, init="independent", model="cnn5")).stack
    weights = dict(stack.named_parameters())["0.weight"]
    expected = [build("cnn5", (1, 8, 8), 10, seed).state_dict()["0.weight"] for seed in (0, 1, 2)]
    assert torch.equal(weights[0], expected[0])
    # every agent draws as the network itself does, with the deviation of its initialization
    assert len({w.sum().item() for w in weights}) == 3
    for w in weights:
        assert w.std().item() == pytest.approx(expected[0].std().item(), rel=0.2)


def test_epochs_and_split_seeds() -> None:
    simulation = Simulation(replace(SMALL, epochs=2.0))
    assert simulation.steps == 2 * -(-1433 // (3 * 8))
    parts = [Simulation(replace(SMALL, seed=s, split_seed=5)).data.parts for s in (0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(*parts, strict=True))
    other = Simulation(replace(SMALL, seed=1)).data.parts
    assert not all(np.array_equal(a, b) for a, b in zip(parts[1], other, strict=True))


def test_validation_leaves_the_test_set_alone() -> None:
    whole, held = (
        Simulation(SMALL).dataset,
        Simulation(replace(SMALL, evaluate_on="validation")).dataset,
    )
    assert len(held.train_labels) + len(held.test_labels) == len(whole.train_labels)
    images = {row.numpy().tobytes() for row in whole.test_inputs}
    assert not any(row.numpy().tobytes() in images for row in held.test_inputs)


def test_features_are_skewed_where_an_agent_holds_them() -> None:
    plain = Simulation(SMALL).data
    noisy = Simulation(replace(SMALL, feature_skew="noise:2")).data
    change = noisy.dataset.train_inputs - plain.dataset.train_inputs
    deviations = [change[torch.from_numpy(part)].std().item() for part in noisy.parts]
    assert deviations == pytest.approx([0, 1, 2], rel=0.05, abs=1e-12)
    assert torch.equal(noisy.dataset.test_inputs, plain.dataset.test_inputs)


def test_augmented_batches_are_both_passes_own() -> None:
    config = replace(SMALL, algorithm="dsaddle", augment="crop-flip")
    data = Simulation(config).data
    first, again = data.batch(3)[0], data.batch(3)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, Simulation(replace(config, augment="none")).data.batch(3)[0])


def test_a_deadline_stops_with_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    options = ["--agents", "3", "--steps", "30", "--out", run, "--minutes", "1e-6"]
    assert main(["train", *options]) == 75
    assert f"fastsaddle train --resume {run}" in capsys.readouterr().out
    assert main(["train", "--resume", run, "--minutes", "9"]) == 0
    assert "minutes" not in json.loads((tmp_path / "run" / "config.json").read_text())


def test_tensorboard_shows_the_metrics(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    options = ["--agents", "3", "--steps", "30", "--eval-every", "10", "--tensorboard"]
    # so that no metric is null throughout
    options += ["--compressor", "sign"]
    assert main(["train", *options, "--out", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name in rows[0].keys() - {"step"}:
        seen = [(e.step, e.value) for e in events.Scalars(name)]
        expected = [(row["step"], row[name]) for row in rows if row[name] is not None]
        assert [step for step, _ in seen] == [step for step, _ in expected]
        assert [v for _, v in seen] == pytest.approx([v for _, v in expected], rel=1e-6)


def test_tensorboard_is_asked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert main(["train", "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert "--track tensorboard needs the package tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
