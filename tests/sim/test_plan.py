"""`plan` says what a run will send and compute, and writes nothing; `export` writes what plain torch loads."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.commands import plan
from fastsaddle.sim.run import tensor_files
from fastsaddle.sim.run.memory_needed import size

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ("--agents", "4", "--steps", "24", "--batch-size", "4", "--eval-every", "12")


@pytest.fixture(autouse=True)
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "SECONDS", 0.1)


@pytest.mark.parametrize(
    "options",
    [
        "--algorithm qsaddle",
        "--algorithm nsaddle --topology star",
        "--algorithm qgm --gossip-every 3 --compressor stochastic-quantizer:4",
        "--algorithm dppf --period 4",
        "--algorithm local-sgd --period 7",
        "--algorithm easgd --period 40",
        "--algorithm local-sgd --period qsr:3:0.1 --schedule cosine",
        "--algorithm qgm --gossip-every 7",
        "--algorithm gradient-tracking --topology one-peer-exponential",
        "--algorithm qsaddle --sam looksam:2",
    ],
)
def test_bytes_and_gradients_are_those_of_the_run(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, *options.split()]
    assert main(["plan", *words]) == 0
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().out
    assert main(["train", *words, "--out", "run"]) == 0
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{size(row['bytes_sent'] / 4)} an agent, {size(row['bytes_sent'])} in all" in said
    assert f"{row['gradient_evaluations'] / 4:,.0f} gradients an agent" in said
    assert re.search(r"^time .* 24 steps of .* ms take .*, 3 evaluations", said, re.MULTILINE)


def test_a_trial_without_messages_claims_no_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--algorithm", "dppf", "--period", "100000", "--steps", "200000")
    assert main(["plan", "--agents", "2", *words]) == 0
    assert "sent    not known: agents sent nothing in the " in capsys.readouterr().out


def test_a_plan_is_of_a_new_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--resume", "run"]) == 2
    assert main(["plan", "--algorithm", "qgm", "--rho", "1"]) == 2
    said = capsys.readouterr().err
    assert "it takes no --resume" in said and "qgm takes no --rho" in said
    for seconds, words in ((0.5, "0.5 s"), (90, "90 s"), (3000, "50 min"), (1e6, "278 h")):
        assert plan.duration(seconds) == words


def test_an_export_is_a_readable_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fs.sim.train(agents=2, steps=1, out="run", quiet=True)
    umask = os.umask(0o022)
    try:
        run.export("model.safetensors")
    finally:
        os.umask(umask)
    path = tmp_path / "model.safetensors"
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o644
    before = path.read_bytes()
    with pytest.raises(OSError, match="nowhere"):
        run.export("nowhere/model.safetensors")

    def full(*given: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match=r"cannot write model\.safetensors: No space left"):
        run.export("model.safetensors")
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {
        "run",
        path.name,
    }
    for agent in (True, 1.5, "0"):
        with pytest.raises(ValueError, match=f"agents are 0 to 1, got {agent!r}"):
            run.model(agent)  # type: ignore[arg-type]


def test_exported_models_are_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fs.sim.train(agents=4, steps=6, out="run", quiet=True)
    for words, agent in ((["--consensus"], None), (["--agent", "2"], 2)):
        assert main(["export", "run", *words, "--out", "model.safetensors"]) == 0
        expected = run.model(agent)
        found = load_file("model.safetensors")
        assert all(torch.equal(found[n], v) for n, v in expected.state_dict().items())
        fresh = torch.nn.Sequential(
            *(torch.nn.Flatten(), torch.nn.Linear(64, 50), torch.nn.ReLU()),
            torch.nn.Linear(50, 10),
        )
        fresh.load_state_dict(found)
        x = torch.randn(3, 64)
        assert torch.equal(fresh(x), expected(x))
    with safe_open("model.safetensors", "pt") as file:
        assert file.metadata()["model"] == "agent 2" and file.metadata()["step"] == "6"
    Path("ordinary").touch()
    assert Path("model.safetensors").stat().st_mode == Path("ordinary").stat().st_mode
    Path("ordinary").unlink()
    before = Path("model.safetensors").read_bytes()
    assert main(["export", "run", "--consensus", "--out", "no/model.safetensors"]) == 2
    assert main(["export", "run", "--agent", "4", "--out", "model.safetensors"]) == 2
    assert main(["export", "run", "--consensus", "--out", "model.pt"]) == 2
    assert main(["export", "nowhere", "--consensus", "--out", "model.safetensors"]) == 2
    assert Path("model.safetensors").read_bytes() == before and len(list(tmp_path.iterdir())) == 2
    said = capsys.readouterr().err
    assert "agents are 0 to 3, got 4" in said and "nowhere is not a run" in said
    assert "No such file or directory: 'no/model.safetensors'" in said
    for words in ([], ["--consensus", "--agent", "1"]):
        with pytest.raises(SystemExit) as end:
            main(["export", "run", *words, "--out", "m.safetensors"])
        assert end.value.code == 2
