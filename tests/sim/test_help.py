"""Help says what acts: of one method the options that change its run, and no other's."""

import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastsaddle.cli import COMMANDS, main
from fastsaddle.sim import methods
from fastsaddle.sim.commands import completion, train_help
from fastsaddle.sim.config import DEFAULTS, OVER_RANKS, TrainConfig
from fastsaddle.sim.run.simulation import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")
# options that say where a run lies and when it is looked at; test_python.py and test_train_cli.py see them act
OF_FILES = {"out", "resume", "minutes", "track", "tensorboard"}
# option -> another value, with which the run is another one
FLIPS: dict[str, Any] = {
    **{"partition": "iid", "alpha": 5.0, "split_seed": 7, "feature_skew": "noise:0.5"},
    **{"augment": "flip", "evaluate_on": "validation", "model": "mlp:9", "init": "independent"},
    **{"agents": 5, "topology": "star", "faults": "links:0.5", "push_sum": True},
    **{"lr": 0.05, "schedule": "cosine", "warmup": 0.5, "momentum": 0.5, "nesterov": True},
    **{"qg_momentum": 0.3, "quasi_global": "both", "rho": 0.3, "adaptive": True},
    **{"sam": "looksam:2", "cross_gradients": "model", "perturb": "self"},
    **{"mixed_self_gradient": True, "tracking": 0.2, "period": "1", "pull": 0.7, "push": 2.0},
    **{"pull_schedule": "rising", "push_schedule": "rising", "weight_decay": 0.3},
    **{"ccl_model": 1.0, "ccl_data": 1.0, "compressor": "sign", "consensus_step": 0.5},
    **{"gossip_every": 2, "state_dtype": "bfloat16", "steps": 4, "epochs": 1.0},
    **{"batch_size": 5, "seed": 3, "precision": "bfloat16", "engine": "loop", "chunk": 2},
}
# option -> a value that no run can have
REFUSED: dict[str, Any] = {
    **{"dataset": "npz", "device": "cuda:99", "threads": 0, "eval_every": 0},
    **{"checkpoint_every": 0, "option": "nobody=1", "cuda_graph": "on"},
}


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[set[str], str]:
    """The options of a help, and the whole of it; borders are blanks where the output is no UTF-8."""
    capsys.readouterr()
    assert main(["train", *words]) == 0
    text = capsys.readouterr().out
    found = re.findall(r"^[│ ] (--[a-z][\w-]*)", text, flags=re.MULTILINE)
    return {name[2:].replace("-", "_") for name in found}, text


def config_of(method: str) -> TrainConfig:
    graph = "chain" if method == "relay-sgd" else "ring"
    period = "2" if methods.takes(method, "period") else "4"
    small = {"agents": 4, "steps": 3, "batch_size": 4}
    return TrainConfig(algorithm=method, topology=graph, period=period, **small)  # type: ignore[arg-type]


def came_to(config: TrainConfig) -> str:
    """Everything that three steps change, and what they are to be."""
    torch.manual_seed(0)
    simulation = Simulation(config)
    for step in range(3):
        simulation.step(step)
    tensors = simulation.tensors()
    sha = hashlib.sha256(repr([*tensors, simulation.counters()]).encode())
    for tensor in tensors.values():
        sha.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    said = (
        *(simulation.steps, simulation.rate(1), simulation.engine.engine, simulation.engine.chunk),
        *(config.precision, len(simulation.dataset.test_labels)),
    )
    return sha.hexdigest() + repr(said)


@pytest.mark.parametrize("method", methods.names())
def test_each_option_of_a_methods_help_changes_its_run(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names, text = shown(capsys, "--algorithm", method, "--help")
    config = config_of(method)
    before = came_to(config)
    for name in sorted(names - OF_FILES):
        if name in REFUSED:
            with pytest.raises((ValueError, RuntimeError, OSError)):
                came_to(replace(config, **{name: REFUSED[name]}))
        elif name == "algorithm":
            other = "dsgd" if method != "dsgd" else "dsgdm"
            assert came_to(replace(config, algorithm=other, period="4")) != before
        elif name == "gradient":
            wanted = "plain" if methods.takes(method, "rho") else "sam"
            assert came_to(replace(config, gradient=wanted)) != before
        elif name == "topology" and method == "push-pull":
            assert came_to(replace(config, topology="directed-ring")) != before
        else:
            assert came_to(replace(config, **{name: FLIPS[name]})) != before, name
    words = re.findall(r"--(?:no-)?([a-z][\w-]*)", text)
    # what another dataset needs is no method's
    mentioned = {word.replace("-", "_") for word in words} - {"help", "data_dir"}
    assert mentioned <= names, mentioned - names
    # what is left out is refused where it is typed, or of several processes
    for name in DEFAULTS.keys() - names - {*OVER_RANKS}:
        assert not train_help.acts(TrainConfig(algorithm=method), name)


def test_an_option_comes_with_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    without, _ = shown(capsys, "--algorithm", "qgm", "--help")
    assert not without & {"rho", "sam", "gossip_order", "lr_decay", "norm_decay", "data_dir"}
    for words, wanted in (
        (("--gradient", "sam"), {"rho", "adaptive", "sam"}),
        (("--compressor", "sign"), {"gossip_order", "running_sum", "adaptive_gossip"}),
        (("--schedule", "step"), {"lr_decay"}),
        (("--weight-decay", "0.1"), {"norm_decay"}),
        (("--dataset", "mnist"), {"data_dir", "download"}),
    ):
        found, _ = shown(capsys, "--algorithm", "qgm", *words, "--help")
        assert found - without == wanted
    assert main(["train", "--algorithm", "nobody", "--help"]) == 2


def test_plain_help_is_short_and_full_help_has_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    few, text = shown(capsys, "--help")
    assert few == set(train_help.FEW) and len(few) == 20
    assert sum(max(1, -(-len(line) // 120)) for line in text.splitlines()) <= 60
    every, text = shown(capsys, "--help-all")
    assert every == set(DEFAULTS)
    panels = [name for names in train_help.PANELS.values() for name in names]
    assert sorted(panels) == sorted(DEFAULTS)
    titles = re.findall(r"^\W+(\w+) options\W*$", text, flags=re.MULTILINE)
    assert titles == ["data", "model", "graph", "method", "messages", "run", "torchrun"]
    assert "Of dppf, easgd." in re.sub(r"[│\s]+", " ", text)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert set(completion.OPTIONS) == set(COMMANDS)
    assert all(word in script for word in (*COMMANDS, "--qg-momentum", "--consensus"))


@pytest.mark.parametrize("option", ["--overlap auto", "--timeout 5", "--placement 2,2"])
def test_options_of_processes_need_some(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *option.split(), "--out", "never"]) == 2
    assert f"{option.split()[0]} needs several processes" in capsys.readouterr().err
