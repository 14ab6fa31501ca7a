"""The recipe of docs/adding.md: an engine of one's own, from a file or as a file of the folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import choices
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.engines import _choice
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run import graph_choice

ENGINE = '''
import torch
from fastsaddle.sim.engine import Engine


class Plain(Engine):
    """Each agent's model by itself, gradients copied into the stack."""

    one_by_one = True
    reads_host = ("gradients", "whose")

    @classmethod
    def can_run(cls, stack, precision="float32", inputs=None):
        return None if precision == "float32" else f"takes float32 only, got {precision}"

    def gradients(self, inputs, targets, loss, features):
        losses = []
        for agent in range(self.stack.agents):
            model = self.stack.agent(agent, perturbed=True)
            found = loss(model(inputs[agent]), targets[agent])
            found.backward()
            for name, row in self.stack.named_gradients():
                row[agent].copy_(model.get_parameter(name).grad)
            losses.append(found.detach())
        return torch.stack(losses)

    def outputs(self, inputs, whose, features):
        models = range(self.stack.agents) if whose is None else whose.tolist()
        return torch.stack([self.stack.agent(i)(x) for i, x in zip(models, inputs)])
'''
TINY = ("--agents", "4", "--batch-size", "8", "--steps", "10", "--threads", "1", "--device", "cpu")
SIM = Path(choices.__file__).parent


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(ENGINE)
    return tmp_path


def test_the_folder_is_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    files = {p.stem for p in (SIM / "engines").glob("[!_]*.py")} - {"__init__"}
    assert files == {"batched", "implicit", "lanes", "loop", "threads", "unfold", "vmap"}
    assert set(_choice.names()) == files
    assert main(["train", "--help-all"]) == 0
    said = capsys.readouterr().out
    for name in files:
        assert _choice.find(name).function.__name__ == name.title() and name in said


def test_a_file_of_ones_own_trains(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, "--engine", "mine.py:Plain", "--out", "run"]) == 0
    assert f'engine "{own / "mine.py"}:Plain" on' in capsys.readouterr().out
    record = json.loads((own / "run" / "config.json").read_text())
    assert record["engine"] == f"{own / 'mine.py'}:Plain" and record["chunk"] is None
    assert main(["train", *TINY, "--engine", "loop", "--out", "loop"]) == 0
    mine, loop = (
        [json.loads(row) for row in (own / run / "metrics.jsonl").read_text().splitlines()][-1]
        for run in ("run", "loop")
    )
    assert mine["consensus_accuracy"] == pytest.approx(loop["consensus_accuracy"], abs=0.01)
    # from elsewhere: config.json has the whole path
    expected = (own / "run" / "checkpoint-10.safetensors").read_bytes()
    (own / "run" / "checkpoint-10.safetensors").unlink()
    monkeypatch.chdir(SIM)
    assert main(["train", "--resume", str(own / "run")]) == 0
    assert (own / "run" / "checkpoint-10.safetensors").read_bytes() == expected


def test_a_file_in_the_folder_is_a_built_in_engine(tmp_path: Path) -> None:
    package = tmp_path / "fastsaddle"
    shutil.copytree(SIM.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "sim" / "engines" / "plain.py").write_text(ENGINE)
    words = ["train", *TINY, "--engine"]
    code = (
        "from fastsaddle.cli import main\n"
        f"print(main([*{words}, 'plain', '--out', 'run']), main([*{words}, 'fast']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("0 2\n"), done
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["engine"] == "plain"
    assert "auto, batched, implicit, lanes, loop, plain, threads" in done.stderr


def test_gradients_of_ones_own(own: Path, seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), 4, "independent", seed)
    inputs, labels = torch.randn(4, 5, 2, 3), torch.randint(0, 3, (4, 5))
    engine = GradientEngine(stack, F.cross_entropy, "mine.py:Plain", chunk=2)
    assert engine.one_by_one and engine.chunk is None
    losses, found = engine.gradients(inputs, labels), stack.g.clone()
    other = GradientEngine(stack, F.cross_entropy, "batched")
    assert torch.allclose(losses, other.gradients(inputs, labels), atol=1e-6)
    assert torch.allclose(found, stack.g, atol=1e-6)
    whose = torch.tensor([1, 1, 0, 3])
    assert torch.allclose(engine.outputs(inputs, whose), other.outputs(inputs, whose), atol=1e-6)


def test_what_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "not.py").write_text("class Plain: ...")
    for options, rule in (
        (("mine.py:Plain", "--precision", "bfloat16"), "mine.py:Plain takes float32 only, got bf"),
        (("not.py:Plain",), "--engine not.py:Plain must be a subclass of fastsaddle.sim.engine.E"),
        (("mine.py:Plane",), "mine.py has no callable 'Plane'"),
        (("fast",), "engine must be one of auto, batched, implicit, lanes, loop, threads, unfold"),
    ):
        assert main(["train", *TINY, "--engine", *options]) == 2
        said = capsys.readouterr().err
        assert rule in said and said.count("\n") == 1
    assert not (own / "runs").exists()


def test_it_stays_out_of_cuda_graphs(own: Path) -> None:
    optimizer = fs.QSADDLe([nn.Parameter(torch.ones(3, 7))], topology="ring")
    config, gpu = TrainConfig(engine="mine.py:Plain"), torch.device("cuda")
    rule = "the mine.py:Plain engine takes gradients on the host"
    assert graph_choice.resolve(config, gpu, optimizer, "mine.py:Plain") == ("off", rule)
    text = ENGINE.replace('reads_host = ("gradients", "whose")', "")
    (own / "silent.py").write_text(text)
    config = TrainConfig(engine="silent.py:Plain")
    reason = graph_choice.resolve(config, gpu, optimizer, "silent.py:Plain")[1]
    assert "may decide on the host" in reason or "kernels must run on" in reason
