"""`--faults`: what a run records of them, that it goes on and happens again bit for bit, and how it is shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.graphs import fault_log
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report import fault_figures
from fastsaddle.sim.report.groups import group
from fastsaddle.sim.report.runs import read
from fastsaddle.sim.run import faults

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ("--agents", "5", "--batch-size", "8", "--model", "mlp:5", "--steps", "24")
OFTEN = ("--eval-every", "6", "--checkpoint-every", "4")
BOTH = "links:0.3,agents:0.1,slow:3x4,seed:7"


def train(out: Path, *options: str, status: int = 0) -> Path:
    assert main(["train", *SMALL, *OFTEN, *options, "--out", str(out)]) == status
    return out


def rows(run: Path) -> list[dict[str, Any]]:
    """Without what depends on time."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in found]


def same(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    assert (one / faults.FILE).read_bytes() == (other / faults.FILE).read_bytes()
    first, second = (load_file(run / "checkpoint-24.safetensors") for run in (one, other))
    assert first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


def test_what_a_run_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", "--faults", BOTH)
    faulty = fs.Faults(links=0.3, agents=0.1, slow={3: 4}, seed=7).over(fs.topology.ring(5))
    said = capsys.readouterr().out
    links, agents = faulty.shares(range(24))
    assert (
        f"in the first 24 rounds {links:.1%} of the links fall and {agents:.1%} of the agents"
        in said
    )
    assert str(run / faults.FILE) in said and "ring with faults (consensus rate " in said
    assert (run / faults.FILE).read_text() == fault_log.text(faulty.records(range(24)))
    assert json.loads((run / "config.json").read_text())["faults"] == BOTH
    first, *others = rows(run)
    assert first["links_down"] is None and first["agents_down"] is None
    for before, row in zip([first, *others], others, strict=False):
        found = faulty.happened(range(before["step"], row["step"]))
        assert row["links_down"] == pytest.approx(float(found.links.double().mean()))
        assert row["agents_down"] == pytest.approx(float(found.agents.double().mean()))
    # two gradients of each agent that is up; a model to each neighbor that is reached
    up = 24 * 5 - int(faulty.happened(range(24)).agents.sum())
    assert others[-1]["gradient_evaluations"] == 2 * up
    parameters = int(re.search(r"([\d,]+) parameters", said)[1].replace(",", ""))  # type: ignore[index]
    sent = sum(faulty.at(t).messages for t in range(24))
    assert others[-1]["bytes_sent"] == 4 * parameters * sent


def test_draws_follow_the_seed_of_the_run_unless_they_have_one() -> None:
    def asked(text: str, seed: int) -> fs.Faults | None:
        return faults.parse(text, TrainConfig(faults=text, seed=seed).seed)

    assert asked("links:0.3", 1) == asked("links:0.3,seed:1", 2) != asked("links:0.3", 2)


def test_without_faults_nothing_is_said_of_them(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    assert not (run / faults.FILE).exists() and "links_down" not in rows(run)[-1]


DAMAGES: list[Callable[[str], str]] = [
    lambda text: text + '{"round": 9, "li',
    lambda text: text[:7],
    lambda text: text + '{"round": 999, "agents": [1]}\n',
]


@pytest.mark.parametrize(
    ("options", "damages"),
    [
        (("--algorithm", "gradient-tracking"), DAMAGES),
        (
            (
                *("--algorithm", "qsaddle", "--topology", "matchings", "--consensus-step", "0.5"),
                *("--compressor", "stochastic-quantizer:8"),
            ),
            [],
        ),
    ],
)
def test_stopped_gone_on_with_and_replayed(
    options: tuple[str, ...], damages: list[Callable[[str], str]], tmp_path: Path
) -> None:
    whole = train(tmp_path / "whole", *options, "--faults", BOTH)
    begun = train(tmp_path / "begun", *options, "--faults", BOTH, "--minutes", "1e-9", status=75)
    log = begun / faults.FILE
    for damage in damages:
        # what a kill may leave, and what nothing leaves
        log.write_text(damage(log.read_text()))
        assert main(["train", "--resume", str(begun), "--minutes", "1e-9"]) == 75
        assert max(fault_log.read(log), default=-1) < 24
    log.unlink()
    assert main(["train", "--resume", str(begun)]) == 0
    same(whole, begun)
    again = train(tmp_path / "again", *options, "--faults", f"log:{whole / faults.FILE}")
    same(whole, again)


def test_the_path_of_a_log_is_kept_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log = [{"round": 2, "links": [[1, 2]], "agents": [0]}, {"round": 3}]
    Path("own.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    run = train(tmp_path / "run", "--faults", "log:own.jsonl")
    assert json.loads((run / "config.json").read_text())["faults"] == f"log:{tmp_path}/own.jsonl"
    assert (run / faults.FILE).read_text() == json.dumps(log[0]) + "\n"
    # people see no folder
    assert str(tmp_path) not in next(
        line for line in capsys.readouterr().out.splitlines() if "faults log:" in line
    )
    (tmp_path / "own.jsonl").unlink()
    assert main(["train", "--resume", str(run), "--steps", "30"]) == 2
    assert (
        f"--faults log:{tmp_path}/own.jsonl: {tmp_path}/own.jsonl is not there"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--faults links:1", "--faults links:1: links must be a probability in [0, 1), got 1.0"),
        ("--faults link:0.1", "--faults must be none, links:0.1,agents:0.01,slow:3x4,seed:7"),
        ("--faults links:x", "got 'links:x' in 'links:x'"),
        ("--faults slow:3", "got 'slow:3' in 'slow:3'"),
        ("--faults links:0.1,links:0.2", "links is given twice"),
        ("--faults slow:1x2,slow:1x3", "slow:1 is given twice"),
        ("--faults slow:9x2", "--faults slow:9x2: faults name agent 9, the topology ring has 5"),
        ("--faults log:nowhere.jsonl", "--faults log:nowhere.jsonl: nowhere.jsonl is not there"),
        ("--faults links:0.1 --algorithm d2 --consensus-step 0.5", "it takes no faults"),
        ("--faults links:0.1 --algorithm relay-sgd --topology chain", "RelaySGD needs a tree that stays"),
        ("--faults agents:0.1 --algorithm gut", "faults of links alone"),
        ("--faults links:0.1 --algorithm local-sgd", "needs an algorithm on a graph"),
        ("--faults links:0.1 --topology one-peer-exponential", "for push-sum"),
        ("--faults links:0.1 --ccl-model 0.1", "a graph that stays"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, *options.split(), "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_told_by_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model", "mlp", "--agents", "9", "--faults", "links:0.2,seed:3"]) == 0
    said = capsys.readouterr().out
    share = fs.Faults(links=0.2, seed=3).over(fs.topology.ring(9)).shares(range(1000))[0]
    assert (
        f"faults links:0.2,seed:3: in the first 1,000 rounds {share:.1%} of the links fall and 0.0%"
        in said
    )
    assert re.search(r"agents are down; consensus rate 0\.\d+ a round over 200 rounds", said)
    assert main(["info", "--model", "mlp"]) == 0
    assert "faults" not in capsys.readouterr().out


def test_drawn_in_the_report(tmp_path: Path) -> None:
    faulty = train(tmp_path / "faulty", "--algorithm", "qgm", "--faults", BOTH)
    whole = train(tmp_path / "whole", "--algorithm", "qgm")
    page = tmp_path / "page.html"
    assert main(["report", str(faulty), str(whole), "--no-surface", "--out", str(page)]) == 0
    text = page.read_text()
    assert all(f'id="{name}"' in text for name in ("faults", "links-down", "agents-down"))
    assert f"faults {BOTH}" in text and str(tmp_path) not in text
    groups = group([read(run) for run in (faulty, whole)], set())
    picture = fault_figures.draw(groups)
    assert picture is not None and len(picture.panels) == 1
    failing = fs.Faults(links=0.3, agents=0.1, slow={3: 4}, seed=7).over(fs.topology.ring(5))
    links, agents = failing.shares(range(24))
    assert (
        f"{links:.1%} of the links and {agents:.1%} of the agents in 24 rounds" in picture.caption
    )
    # one that is being written
    log = faulty / faults.FILE
    log.write_text('{"round": 0, "links": [[0, 1]]}\n{"round": 5, "agents": [2]}\n{"rou')
    assert fault_figures.draw(groups) is not None
    log.write_text("")
    assert fault_figures.draw(groups) is None


def test_texts() -> None:
    assert faults.parse("none", 3) is None
    assert faults.parse("links:0.1", 3) == fs.Faults(links=0.1, slow={}, seed=3)
    found = faults.parse("agents:0.2, slow:3x4,slow:0x2,seed:9", 3)
    assert found == fs.Faults(agents=0.2, slow={3: 4, 0: 2}, seed=9)
    assert faults.label("log:/some/where/faults.jsonl") == "log:faults.jsonl"
    assert faults.label("links:0.1") == faults.absolute("links:0.1") == "links:0.1"
    TrainConfig(faults=BOTH).check()
